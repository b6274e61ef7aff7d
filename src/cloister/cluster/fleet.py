"""The nodes of a cluster behind an api process: one client that makes each call on the node that has what the call is about.

Owns the links to the nodes, follows the table of nodes, and sees when one is lost. Decides where new sandboxes go, by
:mod:`cloister.cluster.placement`. Invariants: a creation moves on only after its node refused it, so no sandbox is made twice; events of a
node count only for what is the node's, and so do its answers (:mod:`cloister.cluster.told`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from random import SystemRandom
from typing import Any, Protocol

import structlog

from cloister.cluster.base import Need, NodeClient, NodeListener, reserve_id
from cloister.cluster.members import Member
from cloister.cluster.placement import Need as PlacedNeed
from cloister.cluster.placement import Room, choose
from cloister.cluster.remote import FarStream, RemoteNode
from cloister.cluster.sums import summed
from cloister.cluster.told import can_be, within_its_say
from cloister.errors import (
    CloisterError,
    InternalError,
    NoCapacityError,
    NodeUnreachableError,
    NotFoundError,
    SandboxNotFoundError,
    TemplateNotFoundError,
    UnavailableError,
)
from cloister.ids import is_sandbox_id, new_sandbox_id
from cloister.model.build import EndedBuild
from cloister.model.cluster import ClusterNode
from cloister.model.node import NodeInfo
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxRequest
from cloister.model.template import AbsentTemplate, Template
from cloister.model.volume import VolumeUse
from cloister.nodewire.methods import Method, NodeEvent, calls_through
from cloister.nodewire.requests import Kill, SandboxRef, SetTeamTraffic, TemplateRef

__all__ = ["ClusterFleet", "FleetHooks", "Homes"]

_log = structlog.get_logger("cloister.cluster")
_LOOK_S = 0.5
_ROWS_S = 2.0
_INFO_S = 2.0
_REPORT_S = 5.0
_RESERVED_S = 15.0
"""As long as a node keeps a sandbox for the id that it gave."""
_MOST_RESERVED = 10_000
_MOST_NOTE = 200
_MOST_TASKS = 1_000
"""Above it no event of a build is looked up: a node may send any number of them."""


class Homes(Protocol):
    """The nodes of things, as the store has them."""

    def of_sandbox(self, sandbox_id: str) -> str | None:
        """The node of a sandbox, also of one that ended lately; None: it is not known."""

    async def of_build(self, build_id: str) -> str | None:
        """The node of a build."""

    async def of_volume(self, volume_id: str) -> str | None:
        """The node of a volume."""

    async def move(self, sandbox_id: str, node_id: str) -> None:
        """Store that a sandbox which is being created goes to another node."""


@dataclass(frozen=True)
class FleetHooks:
    """Functions that the fleet calls."""

    rows: Callable[[], Awaitable[Sequence[ClusterNode]]]
    """Reads the table of nodes."""
    link: Callable[[ClusterNode], RemoteNode]
    """Makes the link to a node; it is not started."""
    connected: Callable[[NodeClient], Awaitable[None]]
    """As :attr:`NodeListener.connected`."""
    heard: Callable[[NodeEvent], None]
    """As :attr:`NodeListener.heard`."""
    lost: Callable[[str], None]
    """A node is lost: called again and again while it is."""


class ClusterFleet:
    """See :class:`~cloister.cluster.base.Fleet`. Call :meth:`start` first, and :meth:`close` last."""

    is_cluster = True

    def __init__(self, homes: Homes, is_stock: Callable[[Template], bool]) -> None:
        """``is_stock`` says whether a node may offer a template to all teams: another one could take the place of a team's own."""
        self._homes = homes
        self._is_stock = is_stock
        self._hooks: FleetHooks | None = None
        self._members: dict[str, Member] = {}
        self._reserved: dict[str, tuple[str, float]] = {}
        """Nodes and times of ids that nodes gave."""
        self._needs: dict[str, Need] = {}
        """Of creations under way."""
        self._traffic = SetTeamTraffic(())
        self._random = SystemRandom()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._of_all: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "create": self._create,
            "ping": lambda _: self._sum(),
            "templates": lambda _: self._templates(),
            "absent_template": self._absent_template,
            "volumes": lambda _: self._all_volumes(),
            "set_team_traffic": self._set_traffic,
        }
        """Calls that are about more than one node; a creation chooses its node."""
        self.calls: NodeClient = calls_through(self._call)
        self.is_ready = False
        """Whether the table of nodes was read."""

    async def start(self, hooks: FleetHooks) -> None:
        """Follow the table of nodes, and connect to them. Raises: StoreError: it cannot be read."""
        self._hooks = hooks
        await self._follow_rows()
        self.is_ready = True
        self._keep(self._run())

    async def close(self) -> None:
        """Drop all connections."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(member.link.close() for member in self._members.values()))

    async def wait_connected(self, timeout_s: float) -> None:
        """Return when all nodes are reached, or after that time."""
        with contextlib.suppress(NodeUnreachableError):
            for member in tuple(self._members.values()):
                await member.link.wait_connected(timeout_s)

    @property
    def members(self) -> Mapping[str, Member]:
        """The nodes, by id."""
        return self._members

    def _keep(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- the table, and the nodes' lives ----

    async def _run(self) -> None:
        rows_at = infos_at = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            self._find_lost()
            if now - rows_at >= _ROWS_S:
                rows_at = now
                try:
                    await self._follow_rows()
                except CloisterError as error:  # the nodes stay as they are until the store answers
                    _log.warning("nodes.not_read", error=str(error))
            if now - infos_at >= _INFO_S:
                infos_at = now
                for member in self._members.values():
                    if member.link.is_connected:
                        self._keep(self._report(member, member.calls))

    async def refresh(self) -> None:
        """Read the table of nodes now. Raises: StoreError."""
        await self._follow_rows()

    async def _follow_rows(self) -> None:
        assert self._hooks is not None, "start comes first"
        rows = {row.node_id: row for row in await self._hooks.rows()}
        for node_id, member in tuple(self._members.items()):
            row = rows.get(node_id)
            if row is None or row.address != member.row.address:
                del self._members[node_id]
                self._keep(member.link.close())
            else:
                member.row = row
        for node_id, row in rows.items():
            if node_id not in self._members:
                member = self._members[node_id] = Member(row, self._hooks.link(row))
                member.link.start(self._listener(member))

    def _listener(self, member: Member) -> NodeListener:
        return NodeListener(lambda node: self._greet(member, node), lambda event: self._hear(member.row.node_id, event))

    async def _greet(self, member: Member, node: NodeClient) -> None:
        assert self._hooks is not None, "start comes first"
        node = within_its_say(node, member.row.node_id)
        await node.ping()  # before it learns anything
        member.traffic = None
        await self._tell_traffic(member, node)
        await self._hooks.connected(node)
        member.learn(await node.ping(), time.monotonic())

    def _hear(self, node_id: str, event: NodeEvent) -> None:
        assert self._hooks is not None, "start comes first"
        if isinstance(event, EndedBuild):
            if len(self._tasks) < _MOST_TASKS:  # the next reconciliation learns the others
                self._keep(self._hear_build(node_id, event))
        elif self._homes.of_sandbox(event.sandbox_id) in (None, node_id) and can_be(event):
            self._hooks.heard(event)
        else:
            _log.warning("node.event_refused", node_id=node_id, sandbox_id=event.sandbox_id)

    async def _hear_build(self, node_id: str, event: EndedBuild) -> None:
        with contextlib.suppress(CloisterError):  # the next reconciliation learns it
            if await self._homes.of_build(event.build_id) == node_id and self._hooks is not None:
                self._hooks.heard(event)

    def _find_lost(self) -> None:
        for node_id, member in self._members.items():
            was_lost = member.is_lost
            member.look()
            if member.is_lost:
                if not was_lost:
                    _log.error("node.lost", node_id=node_id, trouble=member.link.trouble)
                assert self._hooks is not None, "start comes first"
                self._hooks.lost(node_id)

    async def _report(self, member: Member, node: NodeClient) -> None:
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(_REPORT_S):
                member.learn(await node.ping(), asked_at)
        except (CloisterError, TimeoutError) as error:
            _log.warning("node.no_report", node_id=member.row.node_id, error=str(error))

    # ---- places ----

    def met(self, node_id: str) -> None:
        """See the protocol; likewise below."""

    async def reserve(self, need: Need, team_id: str) -> str:
        """See the protocol."""
        order = self._order(need, frozenset())
        member = self._members.get(order[0]) if order else None
        if member is None:
            return new_sandbox_id()
        sandbox_id = await reserve_id(member.calls, need.template, team_id, has_volumes=need.has_volumes)
        if not is_sandbox_id(sandbox_id) or sandbox_id in self._reserved or self._homes.of_sandbox(sandbox_id) is not None:
            _log.warning("node.id_refused", node_id=member.row.node_id, sandbox_id=sandbox_id[:64])
            return new_sandbox_id()
        now = time.monotonic()
        if len(self._reserved) > _MOST_RESERVED:
            self._reserved = {one: (node, at) for one, (node, at) in self._reserved.items() if now - at < _RESERVED_S}
        self._reserved[sandbox_id] = (member.row.node_id, now)
        return sandbox_id

    def place(self, sandbox_id: str, need: Need) -> str | None:
        """See the protocol."""
        node_id, _ = self._reserved.pop(sandbox_id, ("", 0.0))
        order = self._order(need, frozenset())
        if node_id not in order:
            node_id = order[0] if order else ""
        if not node_id:
            raise self._no_place(need)
        self._needs[sandbox_id] = need
        self._members[node_id].count(sandbox_id, need)
        return node_id

    def _no_place(self, need: Need) -> NoCapacityError | NodeUnreachableError:
        if need.node_id is not None:
            return NodeUnreachableError(f"node {need.node_id} has what the sandbox stands on, and takes no sandbox now")
        return NoCapacityError("no node of the cluster has room", hint="cloister nodes shows them; try again later")

    async def find_place(self, need: Need) -> str:
        """See the protocol."""
        if not (order := self._order(need, frozenset())):
            raise self._no_place(need)
        return order[0]

    def _order(self, need: Need, tried: frozenset[str]) -> list[str]:
        views = [one.view() for node_id, one in self._members.items() if need.node_id in (None, node_id)]
        room = Room(mem_mib=need.mem_mib, cpu_count=need.cpu_count, slots=1)
        return choose(views, PlacedNeed(room=room, runtime="", template=need.template, team_id="", excluded=tried), self._random)

    async def each(self) -> Sequence[tuple[str, NodeClient]]:
        """See the protocol."""
        return [(node_id, member.calls) for node_id, member in self._members.items() if member.link.is_connected]

    async def templates_with(self, node_id: str, node: NodeClient) -> Sequence[Template]:
        """See the protocol."""
        found = await node.templates()
        templates = tuple(one for one in found if self._is_stock(one))
        if len(templates) < len(found):
            _log.warning("node.templates_refused", node_id=node_id, count=len(found) - len(templates))
        if (member := self._members.get(node_id)) is not None:
            member.templates = templates
        return self._known_templates()

    def _known_templates(self) -> Sequence[Template]:
        found: dict[str, Template] = {}
        for member in self._members.values():
            for template in member.templates:
                found.setdefault(template.name, template)
        return tuple(found.values())

    async def _absent_template(self, request: TemplateRef) -> AbsentTemplate:
        """The first answer of a node that is building the template; an empty one if none is."""
        for _, node in await self.each():
            with contextlib.suppress(CloisterError):
                if note := (await node.absent_template(request)).note:
                    return AbsentTemplate(note[:_MOST_NOTE])
        return AbsentTemplate("")

    # ---- calls ----

    async def _call(self, method: Method, request: Any) -> Any:
        if method.name in self._of_all:
            return await self._of_all[method.name](request)
        return await self._call_home(method, request)

    async def _templates(self) -> Sequence[Template]:
        await asyncio.gather(*(self.templates_with(*one) for one in await self.each()), return_exceptions=True)
        return self._known_templates()

    async def _call_home(self, method: Method, request: Any) -> Any:
        """The answer of the node that has what the request is about."""
        node_id = await self._home(method, request)
        if node_id is None and method.name in ("kill", "cancel_build", "drop_build", "delete_volume"):
            return None if method.name == "drop_build" else False
        missing = _absent(request) if hasattr(request, "sandbox_id") else NotFoundError(f"no node has what {method.name} is about")
        return await getattr(self._member(node_id, missing).calls, method.name)(request)

    async def _home(self, method: Method, request: Any) -> str | None:
        if (sandbox_id := getattr(request, "sandbox_id", None)) is not None:
            return self._homes.of_sandbox(sandbox_id)
        if (build_id := getattr(request, "build_id", None)) is not None:
            return await self._homes.of_build(build_id)
        if (volume_id := getattr(request, "volume_id", None)) is not None:
            return await self._homes.of_volume(volume_id)
        raise InternalError(f"{method.name} is for one node")

    def _member(self, node_id: str | None, missing: CloisterError) -> Member:
        if node_id is None:
            raise missing
        member = self._members.get(node_id)
        if member is None:
            raise NodeUnreachableError(f"node {node_id} has left the cluster")
        if member.is_lost:
            raise NodeUnreachableError(f"node {node_id} is lost: {member.link.trouble}", hint="it may come back; cloister nodes shows it")
        return member

    async def open_port(self, sandbox_id: str, port: int) -> FarStream:
        """A connection to a port of a sandbox. Raises: as :meth:`RemoteNode.open_port`."""
        member = self._member(self._homes.of_sandbox(sandbox_id), _absent(SandboxRef(sandbox_id)))
        return await member.link.open_port(sandbox_id, port)

    async def _sum(self) -> NodeInfo:
        infos = [member.info for member in self._members.values() if member.info is not None and member.link.is_connected]
        if not infos:
            raise NodeUnreachableError("no node of the cluster answers", hint="cloister nodes shows them")
        return summed(infos)

    async def _all_volumes(self) -> Sequence[VolumeUse]:
        found = await asyncio.gather(*(node.volumes() for _, node in await self.each()), return_exceptions=True)
        return [use for uses in found if not isinstance(uses, BaseException) for use in uses]

    # ---- bounds of teams ----

    async def _set_traffic(self, request: SetTeamTraffic) -> None:
        self._traffic = request
        told = [member for member in self._members.values() if member.link.is_connected]
        outcomes = await asyncio.gather(*(self._tell_traffic(member, member.calls) for member in told), return_exceptions=True)
        for member, outcome in zip(told, outcomes, strict=True):
            if isinstance(outcome, CloisterError):  # it is told before its next creation, and keeps no other node from it
                _log.warning("node.traffic_not_told", node_id=member.row.node_id, error=str(outcome))
            elif outcome is not None:
                raise outcome

    async def _tell_traffic(self, member: Member, node: NodeClient) -> None:
        teams = self._traffic.teams
        if member.traffic != teams:
            await node.set_team_traffic(SetTeamTraffic(teams))
            member.traffic = teams

    # ---- creations ----

    async def _create(self, request: SandboxRequest) -> SandboxRecord:
        sandbox_id = request.sandbox_id
        need = self._needs.pop(sandbox_id, Need(template=request.template))
        tried: frozenset[str] = frozenset()
        while True:
            node_id = self._homes.of_sandbox(sandbox_id)
            member = self._member(node_id, _absent(request))
            is_made = False
            try:
                await self._tell_traffic(member, member.calls)
                record = await member.calls.create(request)
                is_made = True
            except CloisterError as error:
                if not _is_refusal(error):
                    raise
                tried |= {member.row.node_id}
                order = self._order(need, tried)
                if not order:
                    raise
                _log.info("create.refused", sandbox_id=sandbox_id, node_id=node_id, error=str(error), next=order[0])
                await self._move(sandbox_id, member, order[0], need)
            else:
                return record
            finally:
                member.discount(sandbox_id, is_made=is_made)

    async def _move(self, sandbox_id: str, member: Member, to: str, need: Need) -> None:
        """Let another node make the sandbox. The first one forgets the id: it may have made a sandbox ahead for it."""
        await member.calls.kill(Kill(sandbox_id, EndReason.FAILED))
        await self._homes.move(sandbox_id, to)
        self._members[to].count(sandbox_id, need)


def _is_refusal(error: CloisterError) -> bool:
    """Whether a node said that it makes no sandbox. After any other error it may have made one, or the request is at fault."""
    return isinstance(error, NoCapacityError | TemplateNotFoundError) or type(error) is UnavailableError


def _absent(request: Any) -> SandboxNotFoundError:
    return SandboxNotFoundError(f"no node has sandbox {request.sandbox_id}")
