"""Reconciliation after a connection of a node: its own rows follow the node, those of another node stay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from cloister.cluster.base import NodeClient
from cloister.cluster.one import OneNode
from cloister.control.builds.builds import Builds
from cloister.control.builds.requests import BuildSettings
from cloister.control.pausing import Pausing
from cloister.control.quotas import Quotas, SandboxPolicy
from cloister.control.reconcile import Reconciler, UseCases
from cloister.control.registry import Registry
from cloister.control.sandboxes import Sandboxes
from cloister.control.team_traffic import TeamTraffics
from cloister.control.templates import Templates
from cloister.control.uploads import NeededUploads, UploadLimits, Uploads
from cloister.errors import NotFoundError, SandboxNotFoundError
from cloister.ids import new_build_id, new_node_id, new_sandbox_id
from cloister.model.build import Build, BuildStatus
from cloister.model.lifecycle import Lifecycle, Pause, PauseKind
from cloister.model.node import EndedSandbox, NodeInfo
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, Sandbox, SandboxRecord, SandboxState, transition
from cloister.model.team import Team
from cloister.model.template import OwnedTemplate, Template
from cloister.nodewire.requests import AskEnds, BuildRef, Kill, ListSandboxes, ReportBuild, SandboxPage, SandboxRef
from cloister.store.sqlite import SqliteStore
from cloister.store.uploads import UploadFiles
from framework.recorded_lifecycle import RecordedLifecycle
from framework.waiting import eventually_async

RUNNING, PAUSING, PAUSED, RESUMING = SandboxState.RUNNING, SandboxState.PAUSING, SandboxState.PAUSED, SandboxState.RESUMING
PAUSE = Pause(kind=PauseKind.FROZEN, at=1000.0)


@dataclass
class Node:
    """A node that answers what a reconciliation asks."""

    node_id: str = field(default_factory=new_node_id)
    records: dict[str, SandboxRecord] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    def run(self, row: Sandbox) -> None:
        """Run the sandbox of this row."""
        self.records[row.sandbox_id] = SandboxRecord(
            sandbox_id=row.sandbox_id,
            template="t",
            runtime="fake",
            state=SandboxState.RUNNING,
            started_at=row.started_at,
            end_at=row.end_at,
            limits=Limits(),
            team_id=row.team_id,
        )

    def put(self, row: Sandbox, *states: SandboxState, **changes: Any) -> None:
        """Have the sandbox of this row, running, and then through ``states``."""
        self.run(row)
        for state in states:
            self.records[row.sandbox_id] = transition(self.records[row.sandbox_id], state, **changes)

    async def get(self, request: SandboxRef) -> SandboxRecord:
        """One sandbox."""
        if request.sandbox_id not in self.records:
            raise SandboxNotFoundError(request.sandbox_id)
        return self.records[request.sandbox_id]

    async def ping(self) -> NodeInfo:
        """Who it is."""
        return NodeInfo(node_id=self.node_id, version="1", instance=0)

    async def templates(self) -> tuple[Template, ...]:
        """No template."""
        return ()

    async def list(self, request: ListSandboxes) -> SandboxPage:
        """The sandboxes that live here."""
        return SandboxPage.of(self.records.values(), request)

    async def ended(self, _request: AskEnds) -> tuple[EndedSandbox, ...]:
        """It remembers no end."""
        return ()

    async def kill(self, request: Kill) -> bool:
        """End a sandbox."""
        return self.records.pop(request.sandbox_id, None) is not None

    async def report_build(self, request: ReportBuild) -> Any:
        """It has no builds."""
        raise NotFoundError(request.build_id)

    async def cancel_build(self, _request: BuildRef) -> bool:
        """It has no builds."""
        return False

    async def drop_build(self, request: BuildRef) -> None:
        """Note which build it was told to drop."""
        self.dropped.append(request.build_id)


class NoAgents:
    """No agent is asked."""

    async def answers(self, _sandbox_id: str) -> bool:
        """Never called."""
        raise AssertionError


@dataclass
class Plane:
    """A control plane and two nodes."""

    store: SqliteStore
    registry: Registry
    sandboxes: Sandboxes
    builds: Builds
    reconciler: Reconciler
    one: Node
    other: Node
    log: RecordedLifecycle

    async def connect(self, node: Node) -> None:
        """The node came (back)."""
        await self.reconciler.run(cast("NodeClient", node))

    async def add(self, node_id: str | None, **changes: Any) -> Sandbox:
        """A running sandbox's row of that node."""
        now = time.time()
        row = Sandbox(
            sandbox_id=new_sandbox_id(),
            team_id="team",
            template_id="t",
            template="base",
            state=SandboxState.RUNNING,
            started_at=now - 10,
            end_at=now + 100,
            cpu_count=1.0,
            mem_mib=1,
            disk_mib=1,
            node_id=node_id,
        )
        row = replace(row, **changes)
        await self.registry.add(row)
        return row

    async def add_build(self, node_id: str | None, **changes: Any) -> Build:
        """An unfinished build's row of that node."""
        build = Build(
            build_id=new_build_id(),
            template_id="tpl",
            status=BuildStatus.BUILDING,
            created_at=1.0,
            updated_at=1.0,
            started_at=1.0,
            cpu_count=1.0,
            mem_mib=1,
            disk_mib=1,
            node_id=node_id,
        )
        build = replace(build, **changes)
        await self.store.templates.add_build(build, [], 1.0)
        return build


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    """A control plane over a store with one team; neither node has connected yet."""
    store = await SqliteStore.open(tmp_path / "x.db")
    await store.teams.add_team(Team(team_id="team", name="team", created_at=0))
    await store.templates.add_template(OwnedTemplate(template_id="tpl", team_id="team", name="tpl", created_at=1.0, updated_at=1.0))
    registry = Registry(store, retention_s=100)
    one = Node()
    client = cast("NodeClient", one)
    fleet = OneNode(client)
    templates = Templates(client, store)
    policy = SandboxPolicy()
    traffic = TeamTraffics(client, store.teams, policy)
    sandboxes = Sandboxes(fleet, registry, templates, Quotas(registry, policy, store.teams), RecordedLifecycle(), traffic)
    settings = BuildSettings(
        cpu_count=1, mem_mib=1, disk_mib=1, max_cpu_count=1, max_mem_mib=1, max_disk_mib=1, max_builds=1, max_templates=1
    )
    needed = NeededUploads()
    upload_limits = UploadLimits(max_bytes=1, total_bytes=1, reserve_bytes=0)
    uploads = Uploads(UploadFiles(tmp_path / "uploads"), store.templates, upload_limits, needed)
    await uploads.open()
    builds = Builds(fleet, store, templates, uploads, needed, settings)
    log = RecordedLifecycle()
    pausing = Pausing(client, registry, sandboxes, NoAgents(), log)
    reconciler = Reconciler(store, registry, UseCases(sandboxes, pausing, templates, builds.reconciliation))
    yield Plane(store, registry, sandboxes, builds, reconciler, one, Node(), log)
    await reconciler.close()
    await builds.close()
    await uploads.close()
    await registry.close()
    await store.close()


async def test_one_nodes_return_ends_only_its_own_rows(plane: Plane) -> None:
    """A node that returns without sandboxes ends its rows. Sandboxes of another node, which is away, stay alive."""
    own, foreign = await plane.add(plane.one.node_id), await plane.add(plane.other.node_id)
    await plane.connect(plane.one)
    assert plane.registry.peek(own.sandbox_id) is None
    assert plane.registry.peek(foreign.sandbox_id) == foreign
    plane.other.run(foreign)
    await plane.connect(plane.other)
    assert plane.registry.peek(foreign.sandbox_id) == foreign
    plane.other.records.clear()
    await plane.connect(plane.other)
    assert plane.registry.peek(foreign.sandbox_id) is None


async def test_row_without_a_node_goes_to_the_first(plane: Plane) -> None:
    """The connecting node takes over a row of a former release, in the store too. The row then follows the node."""
    row = await plane.add(None)
    plane.one.run(row)
    await plane.connect(plane.one)
    (stored,) = await plane.store.list_sandboxes(ended_since=0)
    assert stored.node_id == plane.one.node_id
    await plane.connect(plane.other)
    assert plane.registry.peek(row.sandbox_id) is not None
    plane.one.records.clear()
    await plane.connect(plane.one)
    assert plane.registry.peek(row.sandbox_id) is None


async def test_row_that_ends_while_another_is_claimed(plane: Plane) -> None:
    """A kill during the claims ends its row; the reconciliation goes on with the others."""
    first, second = await plane.add(None), await plane.add(None)
    plane.one.run(first)
    connecting = asyncio.create_task(plane.connect(plane.one))
    while plane.registry.peek(first.sandbox_id) == first:  # noqa: ASYNC110 - until the claim of the first is on its way to the store
        await asyncio.sleep(0)
    plane.registry.end(second.sandbox_id, EndReason.KILLED)
    await connecting
    assert [row.node_id for row in plane.registry.all_live()] == [plane.one.node_id]


async def test_adopted_sandbox_is_of_the_node_that_has_it(plane: Plane) -> None:
    """A sandbox without a row gets one that names the node."""
    row = await plane.add(None)
    plane.one.run(row)
    record = plane.one.records.pop(row.sandbox_id)
    lost = replace(record, sandbox_id=new_sandbox_id())
    plane.one.records[lost.sandbox_id] = lost
    await plane.connect(plane.one)
    adopted = plane.registry.peek(lost.sandbox_id)
    assert adopted is not None
    assert adopted.node_id == plane.one.node_id


async def test_row_of_another_node_is_not_changed_by_a_namesake(plane: Plane) -> None:
    """A sandbox of the same id on another node neither changes the row nor is killed: the log says that both are there."""
    row = await plane.add(plane.other.node_id)
    plane.one.run(replace(row, end_at=row.end_at + 50))
    await plane.connect(plane.one)
    assert plane.registry.peek(row.sandbox_id) == row
    assert row.sandbox_id in plane.one.records


async def test_builds_of_another_node_are_left_alone(plane: Plane) -> None:
    """A node that does not know a build ends it only if it is its own, and drops only its own unreachable ones."""
    own, foreign = await plane.add_build(plane.one.node_id), await plane.add_build(plane.other.node_id)
    ended = {"status": BuildStatus.ERROR, "finished_at": 2.0}
    old, foreign_old = await plane.add_build(plane.one.node_id, **ended), await plane.add_build(plane.other.node_id, **ended)
    await plane.connect(plane.one)
    states = {build.build_id: build.status for build in await plane.store.templates.list_builds("tpl")}
    assert (states[own.build_id], states[foreign.build_id]) == (BuildStatus.ERROR, BuildStatus.BUILDING)
    assert plane.one.dropped == [old.build_id]
    assert foreign_old.build_id in states


async def test_build_of_a_lost_node_ends_after_a_day(plane: Plane) -> None:
    """No node reports it any more, and its client must not wait for ever; a build that was reported lately goes on."""
    now = time.time()
    lost = await plane.add_build(plane.other.node_id, updated_at=now - 90_000)
    recent = await plane.add_build(plane.other.node_id, updated_at=now - 1000)
    own = await plane.add_build(plane.one.node_id, updated_at=now - 90_000)
    await plane.builds.garbage.prune()
    states = {build.build_id: build.status for build in await plane.store.templates.list_builds("tpl")}
    assert states[lost.build_id] is BuildStatus.ERROR
    assert (states[recent.build_id], states[own.build_id]) == (BuildStatus.BUILDING, BuildStatus.BUILDING)


@pytest.mark.parametrize("here", [(), (PAUSING,), (PAUSING, PAUSED), (PAUSING, PAUSED, RESUMING)])
@pytest.mark.parametrize("there", [(), (PAUSING, PAUSED)])
async def test_node_has_the_word_on_the_state(plane: Plane, here: tuple[SandboxState, ...], there: tuple[SandboxState, ...]) -> None:
    """Whatever a dead process left in the row, the row becomes running or paused as the sandbox is, in the store too."""
    row = await plane.add(plane.one.node_id)
    if PAUSED in here:
        await plane.registry.set_paused(row.sandbox_id, Pause(kind=PauseKind.FILES, at=5.0))
    elif PAUSING in here:
        plane.registry.set_pausing(row.sandbox_id, PAUSE)
    if RESUMING in here:
        plane.registry.set_resuming(row.sandbox_id)
    plane.one.put(row, *there, pause=PAUSE, end_at=row.end_at + 7)
    await plane.connect(plane.one)
    (stored,) = await plane.store.list_sandboxes(ended_since=0)
    expected = (PAUSED, PAUSE, PAUSE.at) if there else (RUNNING, None, plane.one.records[row.sandbox_id].end_at)
    assert (stored.state, stored.pause, stored.end_at) == expected
    assert plane.registry.peek(row.sandbox_id) == replace(stored, version=row.version)
    assert plane.log.changes == ([("paused" if there else "resumed", "server")] if here or there else [])


@pytest.mark.parametrize("state", [PAUSED, RUNNING])
async def test_lost_row_is_adopted_as_the_sandbox_is(plane: Plane, state: SandboxState) -> None:
    """A paused sandbox without a row gets a paused one, with its lifecycle, and counts for its team."""
    row = await plane.add(plane.one.node_id)
    plane.one.put(row, *((PAUSING, PAUSED) if state is PAUSED else ()), pause=PAUSE)
    lost = replace(plane.one.records.pop(row.sandbox_id), sandbox_id=new_sandbox_id(), lifecycle=Lifecycle(wake_s=300))
    plane.one.records = {lost.sandbox_id: lost}
    await plane.connect(plane.one)
    (adopted,) = plane.registry.all_live()
    assert (adopted.sandbox_id, adopted.state, adopted.lifecycle) == (lost.sandbox_id, state, lost.lifecycle)
    assert adopted.pause == (PAUSE if state is PAUSED else None)
    assert plane.registry.use_of("team").paused == (state is PAUSED)


@pytest.mark.parametrize(
    ("states", "seen", "then"),
    [((PAUSING,), PAUSING, PAUSED), ((PAUSING,), PAUSING, RUNNING), ((PAUSING, PAUSED, RESUMING), RESUMING, RUNNING)],
)
async def test_change_of_a_dead_process_is_followed(
    plane: Plane, states: tuple[SandboxState, ...], seen: SandboxState, then: SandboxState
) -> None:
    """A pause or resume that the node is still at shows as such, and the row takes the state in which it ends."""
    row = await plane.add(plane.one.node_id)
    plane.one.put(row, *states, pause=PAUSE)
    await plane.connect(plane.one)
    before = plane.registry.peek(row.sandbox_id)
    assert before is not None
    assert before.state is seen
    pause = PAUSE if then is PAUSED else None
    plane.one.records[row.sandbox_id] = transition(plane.one.records[row.sandbox_id], then, pause=pause)
    after = await eventually_async(lambda: row if (row := plane.registry.peek(before.sandbox_id)) and row.state is then else None)
    assert after.pause == pause


async def test_paused_sandbox_that_is_gone(plane: Plane) -> None:
    """It has crashed and not expired, although its deadline was long ago; a sandbox whose node pauses it at its deadline likewise."""
    row = await plane.add(plane.one.node_id)
    await plane.registry.set_paused(row.sandbox_id, PAUSE)
    await plane.connect(plane.one)
    ended = plane.registry.ended(row.sandbox_id)
    assert ended is not None
    assert ended.end_reason is EndReason.CRASHED


async def test_sandbox_of_a_lost_node_ends_with_its_time(plane: Plane) -> None:
    """No node speaks for it any more: an hour after its deadline it counts as expired, so that its team gets its place back."""
    late = await plane.add(plane.other.node_id, end_at=time.time() - 4000)
    recent = await plane.add(plane.other.node_id, end_at=time.time() - 10)
    await plane.registry.prune()
    assert plane.registry.peek(recent.sandbox_id) is not None
    assert plane.registry.peek(late.sandbox_id) is None
    assert plane.registry.use_of("team").sandboxes == 1
