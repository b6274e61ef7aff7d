"""Makes the registry agree with the node, at each (re)connection (invariant I8).

The node's word on what lives counts; the registry's word on what shall live counts. Nothing lives on that no team owns.
"""

from __future__ import annotations

import time
from typing import Any

import structlog

from cloister.cluster.base import NodeClient
from cloister.control.builds import Builds
from cloister.control.registry import Registry
from cloister.control.sandboxes import Sandboxes
from cloister.control.templates import Templates
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxState
from cloister.store.base import Sandbox, Store

__all__ = ["Reconciler"]

_log = structlog.get_logger("cloister.control")


class Reconciler:
    """Compares once for each :meth:`run` and repairs the differences."""

    def __init__(self, store: Store, registry: Registry, sandboxes: Sandboxes, templates: Templates, builds: Builds) -> None:
        self._store = store
        self._registry = registry
        self._sandboxes = sandboxes
        self._templates = templates
        self._builds = builds

    async def run(self, node: NodeClient) -> None:
        """Bring both sides together, with calls on ``node``."""
        self._templates.learn(await node.templates())
        before = time.time()
        records = {record.sandbox_id: record for record in await node.list()}
        for row in self._registry.all_live():
            if row.sandbox_id not in records and not self._sandboxes.is_creating(row.sandbox_id) and row.started_at < before:
                expired = row.end_at <= before
                message = "" if expired else "it was gone when the node supervisor came back"
                self._registry.end(row.sandbox_id, EndReason.EXPIRED if expired else EndReason.CRASHED, message)
        teams = {team.team_id for team in await self._store.list_teams()}
        for record in records.values():
            if not self._sandboxes.is_creating(record.sandbox_id):
                await self._settle(node, record, teams)
        await self._builds.reconcile(node)
        _log.info("node.reconciled", sandboxes=len(records))

    async def _settle(self, node: NodeClient, record: SandboxRecord, teams: set[str]) -> None:
        row = self._registry.peek(record.sandbox_id)
        if row is not None and row.state is SandboxState.RUNNING:
            if row.end_at != record.end_at:
                await self._registry.change(record.sandbox_id, end_at=record.end_at)
            return
        if row is not None and row.idempotency_key is not None and record.state is SandboxState.RUNNING:
            await self._registry.change(record.sandbox_id, state=SandboxState.RUNNING, started_at=record.started_at)
            return
        ended = self._registry.ended(record.sandbox_id) is not None
        if row is None and not ended and record.state is SandboxState.RUNNING and record.attributes.get("team_id") in teams:
            await self._registry.add(_adopted(record))
            _log.info("sandbox.adopted", sandbox_id=record.sandbox_id)
            return
        if row is not None:
            self._registry.end(record.sandbox_id, EndReason.FAILED, "its client went away while it was being created")
        _log.info("sandbox.unwanted", sandbox_id=record.sandbox_id)
        await node.kill(record.sandbox_id, EndReason.KILLED)


def _adopted(record: SandboxRecord) -> Sandbox:
    known: dict[str, Any] = record.attributes
    return Sandbox(
        sandbox_id=record.sandbox_id,
        team_id=known["team_id"],
        template_id=known.get("template_id", record.template),
        template=known.get("template", record.template),
        state=SandboxState.RUNNING,
        started_at=record.started_at,
        end_at=record.end_at,
        cpu_count=record.limits.cpu_count,
        mem_mib=record.limits.mem_mib,
        disk_mib=record.limits.disk_mib,
        metadata=known.get("metadata", {}),
        access_token=known.get("access_token"),
        traffic_token=known.get("traffic_token"),
        allow_internet=known.get("allow_internet"),
        idempotency_key=known.get("idempotency_key"),
    )
