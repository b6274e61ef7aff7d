"""Forks: what is refused before there is any copy, what each copy gets, and what happens when copies fail or the client goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from cloister.cluster.base import NodeClient
from cloister.cluster.one import OneNode
from cloister.control.builds.background import BackgroundTasks
from cloister.control.builds.ending import BuildEnds
from cloister.control.builds.registering import SnapshotBuilds
from cloister.control.captures import Captures
from cloister.control.forks import Forks, NewFork
from cloister.control.quotas import Quotas, SandboxPolicy
from cloister.control.registry import Registry
from cloister.control.sandboxes import NewSandbox, Sandboxes
from cloister.control.team_traffic import TeamTraffics
from cloister.control.templates import Templates
from cloister.control.uploads import NeededUploads
from cloister.errors import (
    ConflictError,
    InvalidRequestError,
    NoCapacityError,
    QuotaExceededError,
    SandboxNotFoundError,
)
from cloister.ids import new_node_id, new_sandbox_id
from cloister.model.build import BuildStatus
from cloister.model.network import EgressPolicy, NetworkOptions
from cloister.model.node import NodeInfo
from cloister.model.resources import Limits
from cloister.model.sandbox import Sandbox, SandboxRecord, SandboxRequest, SandboxState
from cloister.model.team import Team
from cloister.model.template import Template
from cloister.nodewire.requests import Kill, Reserve, SetTeamTraffic, TakeSnapshot
from cloister.store.sqlite import SqliteStore
from framework.recorded_lifecycle import RecordedLifecycle
from framework.waiting import turns

FORK = NewFork(count=3, timeout_s=50, memory=False)
NEW = NewSandbox(
    template="base",
    timeout_s=100,
    metadata={"a": "b"},
    egress=EgressPolicy(public=False),
    public_traffic=False,
    network=NetworkOptions(host_mask="x.example"),
)


@dataclass
class Node:
    """A node that captures when ``gate`` is open, creates when it may, and fails the creations whose numbers are in ``failing``."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    may_create: asyncio.Event = field(default_factory=asyncio.Event)
    captures: list[TakeSnapshot] = field(default_factory=list)
    created: list[SandboxRequest] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    failing: set[int] = field(default_factory=set)
    fault: Exception | None = None
    saves_memory: tuple[str, ...] = ()
    node_id: str = field(default_factory=new_node_id)

    async def set_team_traffic(self, _request: SetTeamTraffic) -> None:
        """No team is bounded."""

    async def reserve(self, _request: Reserve) -> str:
        """A fresh id."""
        return new_sandbox_id()

    async def ping(self) -> NodeInfo:
        """Its abilities."""
        return NodeInfo(node_id=self.node_id, version="x", instance=0, saves_memory=self.saves_memory)

    async def snapshot(self, request: TakeSnapshot) -> Template:
        """Capture."""
        self.captures.append(request)
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return Template(template_id=request.template_id, name=request.name, build_id=request.build_id, layers=())

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """Create."""
        self.created.append(request)
        number = len(self.created)
        await self.may_create.wait()
        if number in self.failing:
            raise NoCapacityError(f"no room for {number}")
        return SandboxRecord(
            sandbox_id=request.sandbox_id,
            template="base",
            runtime="r",
            state=SandboxState.RUNNING,
            started_at=time.time(),
            end_at=request.end_at,
            limits=Limits(),
        )

    async def kill(self, request: Kill) -> bool:
        """Kill."""
        self.killed.append(request.sandbox_id)
        return True

    async def templates(self) -> list[Template]:
        """One template."""
        return [Template(template_id="t", name="base", build_id="b", layers=())]


@dataclass
class Plane:
    """The use cases over the node, and a running sandbox."""

    node: Node
    store: SqliteStore
    registry: Registry
    sandboxes: Sandboxes
    builds: SnapshotBuilds
    forks: Forks
    original: Sandbox

    async def unwanted(self) -> list[str]:
        """The builds that the next clean-up drops."""
        await self.registry.close()
        return [one.build_id for one in await self.store.templates.list_unwanted_builds(0.0) if not self.builds.is_held(one.build_id)]


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    """Use cases with room for five sandboxes of a team."""
    store = await SqliteStore.open(tmp_path / "x.db")
    for team in ("team", "other"):
        await store.teams.add_team(Team(team_id=team, name=team, created_at=0))
    node = Node()
    node.gate.set()
    node.may_create.set()
    client = cast("NodeClient", node)
    registry = Registry(store, retention_s=100)
    policy = SandboxPolicy(max_per_team=5, max_timeout_s=1000)
    traffic = TeamTraffics(client, store.teams, policy)
    sandboxes = Sandboxes(
        OneNode(client), registry, Templates(client, store), Quotas(registry, policy, store.teams), RecordedLifecycle(), traffic
    )
    builds = SnapshotBuilds(store.templates, BuildEnds(client, store.templates, NeededUploads(), BackgroundTasks()))
    forks = Forks(sandboxes, builds, Captures(client, builds, sandboxes))
    original = await sandboxes.create("team", NEW)
    node.created.clear()
    yield Plane(node, store, registry, sandboxes, builds, forks, original)
    node.gate.set()
    await forks.close()
    await sandboxes.close()
    await registry.close()
    await store.close()


def running(copies: object) -> list[Sandbox]:
    """The copies that run."""
    assert isinstance(copies, list)
    return [one for one in copies if isinstance(one, Sandbox)]


async def test_copies_have_the_choices_and_not_the_secrets(plane: Plane) -> None:
    """Each has its own id and tokens, the wanted lifetime, and everything else of the original, which stays as it was."""
    before = plane.original
    copies = running(await plane.forks.fork("team", before.sandbox_id, FORK))
    assert len({one.sandbox_id for one in copies}) == 3
    tokens = {token.revealed for one in (before, *copies) for token in (one.access_token, one.traffic_token) if token is not None}
    assert len(tokens) == 8
    for one in copies:
        assert 40 < one.end_at - time.time() <= 50
        own = ("sandbox_id", "access_token", "traffic_token", "started_at", "end_at", "version")
        changed = {name: getattr(before, name) for name in own}
        assert replace(one, **changed, build_id=None) == before
    assert len(plane.node.captures) == 1
    assert {request.template for request in plane.node.created} == {plane.node.captures[0].build_id}
    assert plane.registry.live(before.sandbox_id) == before


async def test_the_capture_lives_as_long_as_a_copy(plane: Plane) -> None:
    """Nothing drops it while copies are made or live; no client can reach it; when the last copy has ended, it goes."""
    copies = running(await plane.forks.fork("team", plane.original.sandbox_id, FORK))
    build_id = plane.node.captures[0].build_id
    assert await plane.unwanted() == []
    build = await plane.store.templates.find_build(build_id)
    assert build is not None
    assert build.status is BuildStatus.READY
    assert await plane.store.templates.find_template(build.template_id) is None
    for copy in copies:
        assert await plane.unwanted() == []
        await plane.sandboxes.kill("team", copy.sandbox_id)
    assert await plane.unwanted() == [build_id]


async def test_each_copy_fails_by_itself_in_order(plane: Plane) -> None:
    """A node without room fails one, and the full quota the last ones; the others run."""
    plane.node.failing = {2}
    await plane.sandboxes.create("team", NEW)  # three places are left
    plane.node.created.clear()
    copies = await plane.forks.fork("team", plane.original.sandbox_id, replace(FORK, count=4))
    assert [type(one) for one in copies] == [Sandbox, NoCapacityError, Sandbox, QuotaExceededError]


async def test_all_may_fail(plane: Plane) -> None:
    """Then there are as many errors, and the capture goes."""
    plane.node.failing = {1, 2, 3}
    copies = await plane.forks.fork("team", plane.original.sandbox_id, FORK)
    assert [type(one) for one in copies] == [NoCapacityError] * 3
    assert await plane.unwanted() == [plane.node.captures[0].build_id]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"memory": True}, InvalidRequestError, "checkpoint.*X-Fork-Memory"),
        ({"count": 5}, InvalidRequestError, "count must be lower"),
        ({"timeout_s": 1001}, InvalidRequestError, "longer than"),
    ],
)
async def test_a_fork_is_refused_before_anything_is_made(plane: Plane, change: dict[str, int], error: type, words: str) -> None:
    """The original is not stopped for a request that cannot be met."""
    with pytest.raises(error, match=words):
        await plane.forks.fork("team", plane.original.sandbox_id, replace(FORK, **change))  # type: ignore[arg-type]  # of its fields
    assert (plane.node.captures, plane.node.created) == ([], [])


async def test_memory_is_captured_where_the_node_can(plane: Plane) -> None:
    """The node is asked for it then, and only then."""
    plane.node.saves_memory = ("r",)
    await plane.forks.fork("team", plane.original.sandbox_id, replace(FORK, memory=True, count=1))
    await plane.forks.fork("team", plane.original.sandbox_id, replace(FORK, count=1))
    assert [one.memory for one in plane.node.captures] == [True, False]


async def test_memory_is_captured_in_runtimes_that_can(plane: Plane) -> None:
    """The abilities of another runtime of the node do not count: a fork with memory is refused."""
    plane.node.saves_memory = ("another",)
    with pytest.raises(InvalidRequestError, match="memory"):
        await plane.forks.fork("team", plane.original.sandbox_id, replace(FORK, memory=True, count=1))
    assert plane.node.captures == []


async def test_another_teams_sandbox_looks_like_none(plane: Plane) -> None:
    """And so does one that has ended."""
    for sandbox_id in (plane.original.sandbox_id, new_sandbox_id()):
        with pytest.raises(SandboxNotFoundError):
            await plane.forks.fork("other", sandbox_id, FORK)
    await plane.sandboxes.kill("team", plane.original.sandbox_id)
    with pytest.raises(SandboxNotFoundError):
        await plane.forks.fork("team", plane.original.sandbox_id, replace(FORK, memory=True))
    assert plane.node.captures == []


async def test_a_fork_during_a_fork_conflicts_and_a_kill_waits(plane: Plane) -> None:
    """The capture under way succeeds, then the original ends; the copies live on."""
    plane.node.gate.clear()
    forking = asyncio.create_task(plane.forks.fork("team", plane.original.sandbox_id, replace(FORK, count=1)))
    await turns()
    assert plane.node.captures
    with pytest.raises(ConflictError, match="under way"):
        await plane.forks.fork("team", plane.original.sandbox_id, FORK)
    killing = asyncio.create_task(plane.sandboxes.kill("team", plane.original.sandbox_id))
    await turns()
    assert plane.node.killed == []
    plane.node.gate.set()
    (copy,) = running(await forking)
    await killing
    assert plane.node.killed == [plane.original.sandbox_id]
    assert plane.registry.live(copy.sandbox_id) is not None


async def test_a_capture_that_fails_leaves_nothing(plane: Plane) -> None:
    """The error is the node's, there is no copy, and the sandbox can be captured again."""
    plane.node.fault = NoCapacityError("full")
    with pytest.raises(NoCapacityError, match="full"):
        await plane.forks.fork("team", plane.original.sandbox_id, FORK)
    assert plane.node.created == []
    assert await plane.unwanted() == [plane.node.captures[0].build_id]
    plane.node.fault = None
    assert len(running(await plane.forks.fork("team", plane.original.sandbox_id, FORK))) == 3


@pytest.mark.parametrize("is_captured", [False, True])
async def test_copies_of_a_client_that_went_away_are_killed(plane: Plane, *, is_captured: bool) -> None:
    """Whether it went away during the capture or during the creations."""
    (plane.node.may_create if is_captured else plane.node.gate).clear()
    forking = asyncio.create_task(plane.forks.fork("team", plane.original.sandbox_id, FORK))
    while not plane.node.captures or len(plane.node.created) < 3 * is_captured:
        await turns(1)
    forking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await forking
    plane.node.gate.set()
    plane.node.may_create.set()
    await plane.forks.close()
    assert sorted(plane.node.killed) == sorted(one.sandbox_id for one in plane.node.created)
    assert len(plane.node.killed) == 3
    assert [row.sandbox_id for row in plane.registry.all_live()] == [plane.original.sandbox_id]


async def test_a_paused_original_is_a_conflict(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says that it is to be resumed first."""
    paused = replace(plane.original, state=SandboxState.PAUSED)
    monkeypatch.setattr(plane.sandboxes, "get", lambda *_: paused)
    with pytest.raises(ConflictError, match=r"paused.*resume"):
        await plane.forks.fork("team", plane.original.sandbox_id, FORK)
