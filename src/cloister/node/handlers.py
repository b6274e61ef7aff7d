"""The node protocol's methods about sandboxes: each goes to the part of the node that it concerns. Owns no state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from cloister.model.drain import Drained
from cloister.model.node import EndedSandbox, NodeInfo, SandboxMetrics, TimedStep
from cloister.model.sandbox import SandboxRecord, SandboxRequest, SandboxState
from cloister.model.template import AbsentTemplate, Template
from cloister.node.background import WorkerThreads
from cloister.node.catalog import Catalog
from cloister.node.creation.creator import Creator
from cloister.node.drain import Drain
from cloister.node.ends import EndLog
from cloister.node.live import LiveSandboxes
from cloister.node.network_changes import NetworkChanges
from cloister.node.pausing import Pausing
from cloister.node.planned_stop import PlannedStop
from cloister.node.resolver_sockets import ResolverSockets
from cloister.node.sampler import Sampler
from cloister.node.snapshot_queue import SnapshotQueue
from cloister.node.status import NodeStatus
from cloister.nodewire.requests import (
    AskEnds,
    AskMetrics,
    ChangeDrain,
    DnsSockets,
    Kill,
    ListSandboxes,
    NoteLookUps,
    PauseSandbox,
    Reserve,
    ResumeSandbox,
    SandboxPage,
    SandboxRef,
    SetDeadline,
    SetNetwork,
    SetTeamTraffic,
    TakeSnapshot,
    TemplateRef,
)
from cloister.protocol.dialled import Dialled

__all__ = ["NodeHandlers"]


@dataclass(frozen=True, kw_only=True)
class NodeHandlers:
    """Implements :class:`~cloister.nodewire.methods.SandboxMethods`, where each method is described."""

    live: LiveSandboxes
    creator: Creator
    pausing: Pausing
    ends: EndLog
    sampler: Sampler
    snapshots: SnapshotQueue
    catalog: Catalog
    resolver: ResolverSockets
    status: NodeStatus
    network: NetworkChanges
    threads: WorkerThreads
    drain: Drain
    plan_stop: Callable[[], PlannedStop]

    async def reserve(self, request: Reserve) -> str:
        """See :class:`SandboxMethods`."""
        return await self.creator.reserve(request.template, request.team_id, has_volumes=request.has_volumes)

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """See :class:`SandboxMethods`."""
        return await self.creator.create(request)

    async def creation_steps(self, request: SandboxRef) -> Sequence[TimedStep]:
        """See :class:`SandboxMethods`."""
        return self.creator.newest_steps.find(request.sandbox_id)

    async def kill(self, request: Kill) -> bool:
        """See :class:`SandboxMethods`."""
        return await self.live.end(request.sandbox_id, request.reason)

    async def set_deadline(self, request: SetDeadline) -> None:
        """See :class:`SandboxMethods`."""
        self.live.set_end(request.sandbox_id, request.end_at)

    async def set_network(self, request: SetNetwork) -> None:
        """See :class:`SandboxMethods`."""
        await self.network.set_network(request)

    async def set_team_traffic(self, request: SetTeamTraffic) -> None:
        """See :class:`SandboxMethods`."""
        await self.network.set_team_traffic(request)

    async def pause(self, request: PauseSandbox) -> SandboxRecord:
        """See :class:`SandboxMethods`."""
        return await self.pausing.pause(request)

    async def resume(self, request: ResumeSandbox) -> SandboxRecord:
        """See :class:`SandboxMethods`."""
        return await self.pausing.resume(request)

    async def list(self, request: ListSandboxes) -> SandboxPage:
        """See :class:`SandboxMethods`."""
        return SandboxPage.of(self.live.records(), request)

    async def ended(self, request: AskEnds) -> Sequence[EndedSandbox]:
        """See :class:`SandboxMethods`."""
        return self.ends.find(request.sandbox_ids)

    async def get(self, request: SandboxRef) -> SandboxRecord:
        """See :class:`SandboxMethods`."""
        return self.live.find_any(request.sandbox_id).record

    async def metrics(self, request: AskMetrics) -> SandboxMetrics:
        """See :class:`SandboxMethods`."""
        self.live.find_any(request.sandbox_id)
        return await self.sampler.metrics(request.sandbox_id, request.start, request.end, request.newest)

    async def dial(self, request: SandboxRef) -> Dialled:
        """See :class:`SandboxMethods`."""
        return await self.threads.run(self.live.find(request.sandbox_id).sandbox.dial)

    async def templates(self) -> Sequence[Template]:
        """See :class:`SandboxMethods`."""
        return await self.threads.run(self.catalog.offered)

    async def absent_template(self, request: TemplateRef) -> AbsentTemplate:
        """See :class:`SandboxMethods`."""
        return await self.threads.run(partial(self.catalog.absent, request.name))

    async def dns_sockets(self) -> DnsSockets:
        """See :class:`SandboxMethods`."""
        return await self.resolver.get()

    async def note_look_ups(self, request: NoteLookUps) -> None:
        """See :class:`SandboxMethods`."""
        self.network.note_look_ups(request)

    async def ping(self) -> NodeInfo:
        """See :class:`SandboxMethods`."""
        return await self.status.info()

    async def change_drain(self, request: ChangeDrain) -> Drained:
        """See :class:`SandboxMethods`."""
        paused: dict[str, int] = {}
        if request.is_on:
            begin = partial(self.drain.begin, reason=request.reason, refuse_resumes=request.pause)
            await self.threads.run(begin)
        else:
            await self.threads.run(self.drain.end)
        if request.is_on and request.pause:
            await self.creator.wait_made()  # creations that were admitted before
            paused = await self.plan_stop().save_all(host_goes_down=False, while_=lambda: self.drain.empties)
        running = sum(record.state is not SandboxState.PAUSED for record in self.live.records())
        return Drained(state=self.drain.state, running=running + self.creator.being_made(), paused=paused)

    async def snapshot(self, request: TakeSnapshot) -> Template:
        """See :class:`SandboxMethods`."""
        return await self.snapshots.take(self.live.find(request.sandbox_id), request)
