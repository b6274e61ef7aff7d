"""The control plane's use cases about sandboxes over a node that waits behind a gate, for tests of pauses and resumes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from cloister.cluster.base import NodeClient
from cloister.cluster.one import OneNode
from cloister.control.pausing import Pausing
from cloister.control.quotas import Quotas, SandboxPolicy
from cloister.control.registry import Registry
from cloister.control.sandboxes import NewSandbox, Sandboxes
from cloister.control.team_traffic import TeamTraffics
from cloister.control.templates import Templates
from cloister.errors import ConflictError, SandboxNotFoundError
from cloister.ids import new_sandbox_id
from cloister.model.lifecycle import Pause, PauseKind
from cloister.model.resources import Limits
from cloister.model.sandbox import Sandbox, SandboxRecord, SandboxRequest, SandboxState, transition
from cloister.model.team import Team
from cloister.model.template import Template
from cloister.nodewire.requests import Kill, PauseSandbox, Reserve, ResumeSandbox, SandboxRef, SetDeadline, SetTeamTraffic
from cloister.store.sqlite import SqliteStore
from framework.recorded_lifecycle import RecordedLifecycle
from framework.waiting import eventually_async

__all__ = ["NEW", "Agents", "Node", "Plane", "open_plane"]

NEW = NewSandbox(template="base", timeout_s=100)


@dataclass
class Node:
    """A node that does what it is told, after ``gate`` is open."""

    live: dict[str, SandboxRecord] = field(default_factory=dict)
    team_traffic: list[SetTeamTraffic] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    fault: Exception | None = None
    pauses: list[PauseSandbox] = field(default_factory=list)
    resumes: list[ResumeSandbox] = field(default_factory=list)

    async def reserve(self, _request: Reserve) -> str:
        """A fresh id."""
        return new_sandbox_id()

    async def set_team_traffic(self, request: SetTeamTraffic) -> None:
        """Note it."""
        self.team_traffic.append(request)

    def find(self, sandbox_id: str) -> SandboxRecord:
        """A live sandbox's record."""
        if sandbox_id not in self.live:
            raise SandboxNotFoundError(sandbox_id)
        return self.live[sandbox_id]

    async def get(self, request: SandboxRef) -> SandboxRecord:
        """The record."""
        return self.find(request.sandbox_id)

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """Create."""
        record = SandboxRecord(
            sandbox_id=request.sandbox_id,
            template="base",
            runtime="r",
            state=SandboxState.RUNNING,
            started_at=time.time(),
            end_at=request.end_at,
            limits=Limits(),
            lifecycle=request.lifecycle,
        )
        self.live[request.sandbox_id] = record
        return record

    async def kill(self, request: Kill) -> bool:
        """Kill, at once."""
        return self.live.pop(request.sandbox_id, None) is not None

    async def set_deadline(self, request: SetDeadline) -> None:
        """Prolong."""
        if self.find(request.sandbox_id).state is not SandboxState.RUNNING:
            raise ConflictError("it does not run")
        self.live[request.sandbox_id] = replace(self.find(request.sandbox_id), end_at=request.end_at)

    async def pause(self, request: PauseSandbox) -> SandboxRecord:
        """Pause."""
        self.pauses.append(request)
        await self.gate.wait()
        record = self.find(request.sandbox_id)
        if self.fault is not None:
            raise self.fault
        if record.state is SandboxState.RUNNING:
            pause = Pause(kind=PauseKind.FROZEN if request.memory else PauseKind.FILES, at=time.time())
            record = transition(transition(record, SandboxState.PAUSING), SandboxState.PAUSED, pause=pause)
            self.live[request.sandbox_id] = record
        return record

    async def resume(self, request: ResumeSandbox) -> SandboxRecord:
        """Resume."""
        self.resumes.append(request)
        await self.gate.wait()
        record = self.find(request.sandbox_id)
        if self.fault is not None:
            raise self.fault
        if record.state is SandboxState.PAUSED:
            begun = transition(record, SandboxState.RESUMING, lifecycle=request.lifecycle or record.lifecycle)
            record = transition(begun, SandboxState.RUNNING, pause=None, started_at=time.time(), end_at=request.end_at)
            self.live[request.sandbox_id] = record
        return record

    async def templates(self) -> list[Template]:
        """One template."""
        return [Template(template_id="t", name="base", build_id="b", layers=())]


@dataclass
class Agents:
    """Agents that all answer, or none."""

    answer: bool = True
    asked: int = 0

    async def answers(self, _sandbox_id: str) -> bool:
        """What the test says."""
        self.asked += 1
        return self.answer


@dataclass
class Plane:
    """The use cases over the node."""

    node: Node
    agents: Agents
    store: SqliteStore
    registry: Registry
    sandboxes: Sandboxes
    pausing: Pausing
    log: RecordedLifecycle
    unreachable: list[str] = field(default_factory=list)

    async def create(self, **changes: Any) -> str:
        """The id of a running sandbox."""
        return (await self.sandboxes.create("team", replace(NEW, **changes))).sandbox_id

    async def paused(self, **changes: Any) -> str:
        """The id of a paused sandbox."""
        sandbox_id = await self.create(**changes)
        await self.pausing.pause("team", sandbox_id)
        return sandbox_id

    def state(self, sandbox_id: str) -> SandboxState:
        """The state that clients are told."""
        return self.sandboxes.get("team", sandbox_id).state_at(time.time())

    async def begin(self, work: Any) -> asyncio.Task[Any]:
        """Begin ``work``; returns when the node is at it, behind its gate."""
        calls = len(self.node.pauses) + len(self.node.resumes)
        self.node.gate.clear()
        task = asyncio.create_task(work)
        await eventually_async(lambda: len(self.node.pauses) + len(self.node.resumes) > calls)
        return task

    async def stored(self, sandbox_id: str) -> Sandbox:
        """What the store has."""
        (row,) = [row for row in await self.store.list_sandboxes(ended_since=0) if row.sandbox_id == sandbox_id]
        return row


@asynccontextmanager
async def open_plane(directory: Path, node: Node | None = None) -> AsyncIterator[Plane]:
    """Use cases on a store with one team, over ``node`` or a new one."""
    store = await SqliteStore.open(directory / "x.db")
    await store.teams.add_team(Team(team_id="team", name="team", created_at=0))
    node, agents, log = node or Node(), Agents(), RecordedLifecycle()
    node.gate.set()
    registry = Registry(store, retention_s=100, paused_retention_s=1000)
    client = cast("NodeClient", node)
    policy = SandboxPolicy(max_per_team=3, max_paused_per_team=3, max_timeout_s=3600)
    traffic = TeamTraffics(client, store.teams, policy)
    sandboxes = Sandboxes(OneNode(client), registry, Templates(client, store), Quotas(registry, policy, store.teams), log, traffic)
    pausing = Pausing(client, registry, sandboxes, agents, log)
    plane = Plane(node, agents, store, registry, sandboxes, pausing, log)
    registry.on_unreachable(plane.unreachable.append)
    yield plane
    node.gate.set()
    await pausing.close()
    await sandboxes.close()
    await registry.close()
    await store.close()
