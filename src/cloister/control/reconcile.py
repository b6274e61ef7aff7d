"""Makes the registry and a node agree, at each (re)connection to it (invariant I8).

The node decides which of its sandboxes live, and which are paused; the registry decides which may live. A sandbox without a team is
killed. Rows of other nodes are left alone. A pause or resume that a dead process began is followed until it is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from cloister.cluster.base import NodeClient, ends_of, live_sandboxes
from cloister.control.builds.reconciling import BuildReconciliation
from cloister.control.pausing import Pausing
from cloister.control.registry import Registry
from cloister.control.sandboxes import Sandboxes
from cloister.control.templates import Templates
from cloister.errors import CloisterError
from cloister.model.client_data import ClientData
from cloister.model.sandbox import EndReason, Sandbox, SandboxRecord, SandboxState
from cloister.nodewire.requests import Kill, SandboxRef
from cloister.store.base import Store

__all__ = ["Reconciler", "UseCases"]

_log = structlog.get_logger("cloister.control")


_FOLLOW_S = 0.5
_OWNED = frozenset({SandboxState.RUNNING, SandboxState.PAUSING, SandboxState.PAUSED, SandboxState.RESUMING})
"""States of a node's sandbox that has an owner, and has not been told to end."""
_UNDER_WAY = frozenset({SandboxState.PAUSING, SandboxState.RESUMING})


@dataclass(frozen=True)
class UseCases:
    """The use cases whose state is compared with the node's."""

    sandboxes: Sandboxes
    pausing: Pausing
    templates: Templates
    builds: BuildReconciliation


class Reconciler:
    """Compares both sides at each :meth:`run` and repairs the differences."""

    def __init__(self, store: Store, registry: Registry, use_cases: UseCases) -> None:
        self._store = store
        self._registry = registry
        self._sandboxes = use_cases.sandboxes
        self._fleet = use_cases.sandboxes.fleet
        self._pausing = use_cases.pausing
        self._templates = use_cases.templates
        self._builds = use_cases.builds
        self._following: dict[str, asyncio.Task[None]] = {}
        """By node."""
        self._elsewhere: dict[str, set[str]] = {}
        """During a comparison of a node: the sandboxes that other processes make, pause or resume."""
        self._under_way: dict[str, int] = {}
        """Sandboxes that another process was pausing or resuming at the last comparison of their node, and the versions of their rows."""

    async def close(self) -> None:
        """Follow no change any more."""
        for node_id in tuple(self._following):
            await self._stop_following(node_id)

    async def _stop_following(self, node_id: str) -> None:
        if (following := self._following.pop(node_id, None)) is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def run(self, node: NodeClient) -> None:
        """Compare and repair, by calls on ``node``. Raises: UnavailableError, StoreUnreachableError."""
        node_id = (await node.ping()).node_id
        self._fleet.met(node_id)
        async with self._registry.alone(f"reconciliation of {node_id}"):
            try:
                await self._run(node, node_id)
            finally:
                self._elsewhere.pop(node_id, None)

    async def _run(self, node: NodeClient, node_id: str) -> None:
        making = self._elsewhere[node_id] = set(await self._registry.others_creations())
        await self._registry.catch_up()
        await self._claim(node_id)
        self._templates.learn(await self._fleet.templates_with(node_id, node))
        before = time.time()
        records = {record.sandbox_id: record for record in await live_sandboxes(node)}
        await self._registry.catch_up()  # a sandbox has its row before its node has it
        making |= set(await self._registry.others_creations())
        own = [row for row in self._registry.all_live() if row.node_id == node_id]
        self._elsewhere[node_id] = making | self._find_changed_by_others(own)
        await self._end_gone(node, [row for row in own if row.sandbox_id not in records and row.started_at < before])
        teams = {team.team_id for team in await self._store.teams.list_teams()}
        for record in records.values():
            row = self._registry.peek(record.sandbox_id)
            if row is not None and row.node_id not in (None, node_id):
                _log.error("sandbox.on_two_nodes", sandbox_id=record.sandbox_id, node_id=node_id, of_node_id=row.node_id)
            elif not self._is_busy(record.sandbox_id):
                await self._settle(node, node_id, record, teams)
        await self._follow(node, node_id, [record.sandbox_id for record in records.values() if record.state in _UNDER_WAY])
        await self._builds.run(node, node_id)
        _log.info("node.reconciled", node_id=node_id, sandboxes=len(records))

    async def _claim(self, node_id: str) -> None:
        """Give the node the rows that name no node: a release with one unnamed node wrote them, or a creation that was cut off."""
        if self._fleet.is_cluster:
            return  # every row names its node
        for sandbox_id in [row.sandbox_id for row in self._registry.all_live() if row.node_id is None]:
            is_live = self._registry.peek(sandbox_id) is not None  # it may end while another row is stored
            if is_live and not self._is_being_made(sandbox_id):
                await self._registry.set_node(sandbox_id, node_id)

    def _is_being_made(self, sandbox_id: str) -> bool:
        return self._sandboxes.is_creating(sandbox_id) or any(sandbox_id in busy for busy in self._elsewhere.values())

    def _is_busy(self, sandbox_id: str) -> bool:
        """Whether a call about the sandbox goes on after the reconciliation, and its answer says more."""
        return self._is_being_made(sandbox_id) or self._pausing.is_changing(sandbox_id)

    def _find_changed_by_others(self, own: list[Sandbox]) -> set[str]:
        """The node's sandboxes that another process pauses or resumes. One that has not come further since the last comparison is left
        out: that process is dead.
        """
        if not self._registry.is_shared:
            return set()
        rows = [row for row in own if row.state in _UNDER_WAY and not self._pausing.is_changing(row.sandbox_id)]
        news = {row.sandbox_id for row in rows if self._under_way.get(row.sandbox_id) != row.version}
        for row in own:
            self._under_way.pop(row.sandbox_id, None)
        self._under_way |= {row.sandbox_id: row.version for row in rows}
        return news

    async def _end_gone(self, node: NodeClient, rows: list[Sandbox]) -> None:
        """End the rows of sandboxes that do not live any more, with the reasons that the node kept while it was not connected."""
        gone = [row for row in rows if not self._is_being_made(row.sandbox_id)]
        told = {ended.sandbox_id: ended for ended in await ends_of(node, [row.sandbox_id for row in gone])}
        for row in gone:
            if (ended := told.get(row.sandbox_id)) is not None:
                self._registry.end(row.sandbox_id, ended.reason, ended.message, ended.at)
            elif row.state is SandboxState.CREATING:
                self._registry.end(row.sandbox_id, EndReason.FAILED, "the server went away while it was being created")
            elif row.state_at(time.time()) is SandboxState.ENDED:
                self._registry.end(row.sandbox_id, EndReason.EXPIRED, "", row.end_at)
            else:
                self._registry.end(row.sandbox_id, EndReason.CRASHED, "it was gone when the node supervisor came back")

    async def _settle(self, node: NodeClient, node_id: str, record: SandboxRecord, teams: set[str]) -> None:
        row = self._registry.peek(record.sandbox_id)
        is_owned = record.state in _OWNED
        if row is not None and row.state is SandboxState.CREATING and row.idempotency_key is not None and is_owned:
            row = await self._registry.set_running(record, node_id)
        if row is None and self._registry.ended(record.sandbox_id) is None and is_owned and record.team_id in teams:
            row = _adopted(record, node_id)
            await self._registry.add(row)
            _log.info("sandbox.adopted", sandbox_id=record.sandbox_id)
        if row is not None and row.state is not SandboxState.CREATING:
            if record.client is not None and (row.egress, row.network) != (record.client.egress, record.client.network):
                row = await self._registry.set_network(record.sandbox_id, record.client.egress, record.client.network)
                _log.info("sandbox.network_learnt", sandbox_id=record.sandbox_id)  # its change was cut off before the row was stored
            await self._pausing.agree(row, record)
            return
        if row is not None:
            self._registry.end(record.sandbox_id, EndReason.FAILED, "its client went away while it was being created")
        _log.info("sandbox.unwanted", sandbox_id=record.sandbox_id)
        await node.kill(Kill(record.sandbox_id, EndReason.KILLED))

    async def _follow(self, node: NodeClient, node_id: str, sandbox_ids: Iterable[str]) -> None:
        """Learn in the background how changes end that no process waits for."""
        await self._stop_following(node_id)
        self._following[node_id] = asyncio.create_task(self._follow_all(node, set(sandbox_ids)))

    async def _follow_all(self, node: NodeClient, sandbox_ids: set[str]) -> None:
        while sandbox_ids:
            await asyncio.sleep(_FOLLOW_S)
            for sandbox_id in tuple(sandbox_ids):
                try:
                    record = await node.get(SandboxRef(sandbox_id))
                    row = self._registry.peek(sandbox_id)
                    if row is None or self._is_busy(sandbox_id):
                        sandbox_ids.discard(sandbox_id)
                    elif record.state not in _UNDER_WAY:
                        sandbox_ids.discard(sandbox_id)
                        await self._pausing.agree(row, record)
                except (CloisterError, ConnectionError) as error:  # the node is away, and its return begins anew; or the sandbox ended
                    sandbox_ids.discard(sandbox_id)
                    _log.info("sandbox.not_followed", sandbox_id=sandbox_id, error=str(error))


def _adopted(record: SandboxRecord, node_id: str) -> Sandbox:
    client = record.client or ClientData(template_id=record.template, template=record.template)
    return Sandbox(
        sandbox_id=record.sandbox_id,
        team_id=record.team_id,
        template_id=client.template_id,
        template=client.template,
        state=record.state,
        started_at=record.started_at,
        end_at=record.end_at,
        cpu_count=record.limits.cpu_count,
        mem_mib=record.limits.mem_mib,
        disk_mib=record.limits.disk_mib,
        metadata=client.metadata,
        access_token=record.access_token,
        traffic_token=client.traffic_token,
        egress=client.egress,
        network=client.network,
        idempotency_key=client.idempotency_key,
        lifecycle=record.lifecycle,
        pause=record.pause,
        node_id=node_id,
        build_id=record.build_id or None,
        runtime=record.runtime,
        volumes=record.volumes,
    )
