"""The parts of a node over fake sandboxes: what a test changes is an argument, and events are recorded instead of sent."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from cloister.model.build import EndedBuild
from cloister.model.node import EndedSandbox, PausedSandbox, SandboxNote
from cloister.node.adoption import Adoption
from cloister.node.background import WorkerThreads
from cloister.node.creation.admission import Admission
from cloister.node.creation.creator import Creator
from cloister.node.creation.pool import PoolSize
from cloister.node.drain import Drain
from cloister.node.ends import EndLog
from cloister.node.handlers import NodeHandlers
from cloister.node.journal import Journal
from cloister.node.limits import NodeLimits
from cloister.node.live import LiveSandboxes
from cloister.node.memory_reserve import MemoryReserve
from cloister.node.network_changes import NetworkChanges
from cloister.node.pausing import Pausing, PausingParts
from cloister.node.planned_stop import PlannedStop, Saving
from cloister.node.recent_templates import RecentTemplates
from cloister.node.resolver_sockets import ResolverSockets
from cloister.node.sampler import Sampler
from cloister.node.snapshot_queue import SnapshotQueue
from cloister.node.status import NodeFacts, NodeStatus
from cloister.node.stop_plan import OnStop
from cloister.node.supervisor import Supervisor
from cloister.node.sweeper import Sweeper

__all__ = ["NodeParts", "RecordedEvents"]

NODE_ID = "node_0123456789abcdef"
NO_POOL = PoolSize(0)
WIDE = NodeLimits(cpu_count=1024, mem_mib=1 << 30, disk_mib=1 << 30)

_NETWORK = SimpleNamespace(bound_teams=lambda _traffic: None, note_look_ups=lambda _look_ups: None)


@dataclass
class RecordedEvents:
    """What the node reported, in order."""

    ended: list[EndedSandbox] = field(default_factory=list)
    paused: list[PausedSandbox] = field(default_factory=list)
    notes: list[SandboxNote] = field(default_factory=list)
    builds: list[EndedBuild] = field(default_factory=list)

    def sandbox_ended(self, ended: EndedSandbox) -> None:
        """See SandboxEvents."""
        self.ended.append(ended)

    def sandbox_paused(self, paused: PausedSandbox) -> None:
        """See SandboxEvents."""
        self.paused.append(paused)

    def sandbox_noted(self, note: SandboxNote) -> None:
        """See SandboxEvents."""
        self.notes.append(note)

    def build_ended(self, ended: EndedBuild) -> None:
        """See BuildEvents."""
        self.builds.append(ended)


@dataclass
class FakeHost:
    """Has no sandboxes of an earlier supervisor, and nothing to sweep."""

    @property
    def runtimes(self) -> FakeHost:
        """All that it has."""
        return self

    @property
    def network(self) -> FakeHost:
        """The same."""
        return self

    def refresh(self) -> None:
        """The host's networks are as they were."""

    def sweep(self, _known: Callable[[], set[str]]) -> list[str]:
        """Nothing is left over."""
        return []

    def let_go(self, _idle_s: float) -> list[str]:
        """Nothing is held."""
        return []


class NodeParts:
    """A supervisor and the handlers over it, composed as in the node process. To be made on the event loop."""

    def __init__(
        self,
        directory: Path,
        make_steps: Callable[[Journal], object],
        *,
        pool_size: PoolSize = NO_POOL,
        limits: NodeLimits = WIDE,
        snapshots: object = None,
        catalog: object = None,
        open_sockets: Callable[[], tuple[socket.socket, socket.socket]] | None = None,
        guards: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
        host: Any = None,
    ) -> None:
        self.journal = Journal(directory / "j", directory / "copies")
        self.journal.open()
        host = host or FakeHost()
        ends, threads, self.events = EndLog(directory / "ended.jsonl"), WorkerThreads(16, "node"), RecordedEvents()
        self.reserve, self.drain = MemoryReserve(0), Drain(directory / "drain.json")
        sampler = Sampler(events=self.events, in_thread=threads.run, take_refusals=list, interval_s=5)
        live = LiveSandboxes(limits=limits, journal=self.journal, ends=ends, sampler=sampler, events=self.events, threads=threads)
        steps, recent = cast("Any", make_steps(self.journal)), RecentTemplates(directory / "recent.json")
        admission = Admission(limits, live, self.reserve, self.drain)
        creator = self.creator = Creator(steps, pool_size, admission=admission, live=live, recent=recent)
        pausing = Pausing(PausingParts(live, creator, admission, self.journal, sampler, self.events, threads))
        queue = SnapshotQueue(cast("Any", snapshots), pausing.on_broken)
        self.supervisor = Supervisor(
            adoption=Adoption(runtimes=host.runtimes, journal=self.journal, ends=ends, live=live, threads=threads),
            sweeper=Sweeper(host=host, live=live, being_created=creator.ids, threads=threads),
            guards=guards,
            creator=creator,
            live=live,
            pausing=pausing,
            snapshots=queue,
            threads=threads,
        )
        self.handlers = NodeHandlers(
            live=live,
            creator=creator,
            pausing=pausing,
            ends=ends,
            sampler=sampler,
            snapshots=queue,
            catalog=cast("Any", catalog),
            network=NetworkChanges(live, threads, cast("Any", _NETWORK)),
            resolver=ResolverSockets(cast("Any", open_sockets), (), threads),
            status=NodeStatus(
                creations=creator,
                facts=NodeFacts(node_id=NODE_ID, instance=0, on_stop="kill"),
                zygotes=dict,
                builds=dict,
                disk=dict,
                memory=dict,
                paused=dict,
                changes=dict,
                drain=self.drain,
            ),
            threads=threads,
            drain=self.drain,
            plan_stop=partial(_plan_stop, pausing, live),
        )


def _plan_stop(pausing: Pausing, live: LiveSandboxes) -> PlannedStop:
    """The plan of a node without checkpoints."""
    freeze, keep_files = partial(pausing.save, memory=True), partial(pausing.save, memory=False)
    return PlannedStop(OnStop.KEEP, Saving(freeze=freeze, keep_files=keep_files, checkpoint=pausing.checkpoint), live.records)
