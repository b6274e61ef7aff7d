"""Pauses and resumes: joining, kills, failures, and the team's limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.control.pausing import Resumption
from cloister.errors import (
    AgentSilentAtPauseError,
    AgentSilentError,
    CloisterError,
    ConflictError,
    NoCapacityError,
    QuotaExceededError,
    SandboxNotFoundError,
    StartInFlightError,
)
from cloister.ids import new_sandbox_id
from cloister.model.lifecycle import Lifecycle, Pause, PauseKind, TimeoutAction
from cloister.model.node import EndedSandbox, PausedSandbox
from cloister.model.sandbox import EndReason, Sandbox, SandboxState
from cloister.nodewire.requests import PauseSandbox, SetDeadline
from framework.pausing_lab import NEW, Plane, open_plane
from framework.waiting import turns

AGAIN = Resumption(timeout_s=50)


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    """Use cases on a store with one team."""
    async with open_plane(tmp_path) as plane:
        yield plane


async def outcomes(*works: Any) -> list[Any]:
    """The results or errors of all."""
    return await asyncio.gather(*works, return_exceptions=True)


async def test_pause_and_resume(plane: Plane) -> None:
    """A pause is stored with its kind; a resume is a new run with the same tokens, and is stored too."""
    row = await plane.sandboxes.create("team", NEW)
    await plane.pausing.pause("team", row.sandbox_id)
    paused = await plane.stored(row.sandbox_id)
    assert paused.pause is not None
    assert (paused.state, paused.pause.kind, paused.end_at) == (SandboxState.PAUSED, PauseKind.FROZEN, paused.pause.at)
    assert plane.unreachable == [row.sandbox_id]
    resumed = await plane.pausing.resume("team", row.sandbox_id, AGAIN)
    assert (resumed.state, resumed.pause, resumed.access_token) == (SandboxState.RUNNING, None, row.access_token)
    assert resumed.started_at > row.started_at
    assert abs(resumed.end_at - time.time() - 50) < 5
    assert replace(await plane.stored(row.sandbox_id), version=resumed.version) == resumed
    assert plane.log.changes == [("paused", "api"), ("resumed", "api")]


async def test_pauses_at_once(plane: Plane) -> None:
    """Five pauses at once are one call to the node, and all succeed; one more is a conflict."""
    sandbox_id = await plane.create()
    assert await outcomes(*(plane.pausing.pause("team", sandbox_id) for _ in range(5))) == [None] * 5
    assert len(plane.node.pauses) == 1
    with pytest.raises(ConflictError, match="paused already"):
        await plane.pausing.pause("team", sandbox_id)


async def test_resumes_and_connects_at_once(plane: Plane) -> None:
    """All get the sandbox of one start, for the longest time that a connect asked for; one more resume is a conflict."""
    sandbox_id = await plane.paused()
    wishes = [Resumption(timeout_s=seconds) for seconds in (10, 20, 900)]
    rows = await asyncio.gather(
        *(plane.pausing.resume("team", sandbox_id, AGAIN) for _ in range(5)),
        *(plane.pausing.connect("team", sandbox_id, wish) for wish in wishes),
    )
    assert (len(plane.node.resumes), len(rows)) == (1, 8)
    assert plane.sandboxes.get("team", sandbox_id).end_at > time.time() + 800
    with pytest.raises(ConflictError, match="already running"):
        await plane.pausing.resume("team", sandbox_id, AGAIN)


async def test_connect_never_shortens(plane: Plane) -> None:
    """A connect to a running sandbox leaves a later end, and extends an earlier one."""
    sandbox_id = await plane.create()
    end_at = plane.sandboxes.get("team", sandbox_id).end_at
    row, is_resumed = await plane.pausing.connect("team", sandbox_id, Resumption(timeout_s=10))
    assert (row.end_at, is_resumed) == (end_at, False)
    row, is_resumed = await plane.pausing.connect("team", sandbox_id, Resumption(timeout_s=321))
    assert (row.end_at > end_at, is_resumed) == (True, False)


async def test_connect_with_timeout_zero(plane: Plane) -> None:
    """It leaves a running sandbox's end, and does not end a paused one by resuming it for no time."""
    sandbox_id = await plane.create()
    end_at = plane.sandboxes.get("team", sandbox_id).end_at
    row, _ = await plane.pausing.connect("team", sandbox_id, Resumption(timeout_s=0))
    assert row.end_at == end_at
    await plane.pausing.pause("team", sandbox_id)
    row, is_resumed = await plane.pausing.connect("team", sandbox_id, Resumption(timeout_s=0))
    assert (is_resumed, row.end_at > time.time() + 10) == (True, True)


async def test_calls_while_pausing(plane: Plane) -> None:
    """Its lifetime cannot be changed, another pause joins, and a connect waits and resumes it."""
    sandbox_id = await plane.create()
    pausing = await plane.begin(plane.pausing.pause("team", sandbox_id))
    assert plane.state(sandbox_id) is SandboxState.PAUSING
    assert [row.sandbox_id for row in plane.sandboxes.list("team")] == [sandbox_id]
    with pytest.raises(ConflictError, match="being paused"):
        await plane.pausing.set_timeout("team", sandbox_id, 30)
    joining = asyncio.create_task(plane.pausing.pause("team", sandbox_id))
    connecting = asyncio.create_task(plane.pausing.connect("team", sandbox_id, AGAIN))
    plane.node.gate.set()
    await pausing
    await joining
    _, is_resumed = await connecting
    assert (is_resumed, plane.state(sandbox_id), len(plane.node.pauses)) == (True, SandboxState.RUNNING, 1)


async def test_calls_while_paused_and_resuming(plane: Plane) -> None:
    """Neither has a lifetime to change; one that is being resumed cannot be paused."""
    sandbox_id = await plane.paused()
    for timeout_s in (30, 0):
        with pytest.raises(SandboxNotFoundError, match="doesn't exist or you don't have access to it: it is paused"):
            await plane.pausing.set_timeout("team", sandbox_id, timeout_s)
    resuming = await plane.begin(plane.pausing.resume("team", sandbox_id, AGAIN))
    assert plane.state(sandbox_id) is SandboxState.RESUMING
    with pytest.raises(SandboxNotFoundError, match="being resumed"):
        await plane.pausing.set_timeout("team", sandbox_id, 30)
    with pytest.raises(ConflictError, match="being resumed"):
        await plane.pausing.pause("team", sandbox_id)
    plane.node.gate.set()
    await resuming


@pytest.mark.parametrize("is_pause", [True, False])
async def test_kill_wins(plane: Plane, is_pause: bool) -> None:
    """A kill during a pause or a resume ends the sandbox at once, and the other call learns that it is gone."""
    sandbox_id = await (plane.create() if is_pause else plane.paused())
    work = plane.pausing.pause("team", sandbox_id) if is_pause else plane.pausing.resume("team", sandbox_id, AGAIN)
    task = await plane.begin(work)
    await plane.sandboxes.kill("team", sandbox_id)
    plane.node.gate.set()
    with pytest.raises(SandboxNotFoundError):
        await task
    with pytest.raises(SandboxNotFoundError, match="it was killed"):
        await plane.pausing.resume("team", sandbox_id, AGAIN)
    assert (plane.node.live, plane.registry.use_of("team").sandboxes, plane.registry.use_of("team").paused) == ({}, 0, 0)


@pytest.mark.parametrize("is_pause", [True, False])
async def test_caller_that_goes_away(plane: Plane, is_pause: bool) -> None:
    """A change goes on without its caller, and another caller joins it."""
    sandbox_id = await (plane.create() if is_pause else plane.paused())
    work = plane.pausing.pause("team", sandbox_id) if is_pause else plane.pausing.resume("team", sandbox_id, AGAIN)
    task = await plane.begin(work)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    plane.node.gate.set()
    await (plane.pausing.pause("team", sandbox_id) if is_pause else plane.pausing.resume("team", sandbox_id, AGAIN))
    assert (len(plane.node.pauses), len(plane.node.resumes)) == (1, 0 if is_pause else 1)


@pytest.mark.parametrize("is_pause", [True, False])
async def test_change_that_fails(plane: Plane, is_pause: bool) -> None:
    """All callers get the node's error, and the sandbox and the counts are as before."""
    sandbox_id = await (plane.create() if is_pause else plane.paused())
    before = plane.sandboxes.get("team", sandbox_id)
    plane.node.fault = NoCapacityError("full")
    counts = plane.registry.use_of("team").sandboxes, plane.registry.use_of("team").paused
    works = [plane.pausing.pause("team", sandbox_id) if is_pause else plane.pausing.resume("team", sandbox_id, AGAIN) for _ in range(3)]
    failed = await outcomes(*works)
    assert [type(error) for error in failed] == [NoCapacityError] * 3
    assert is_pause or str(failed[0]).startswith("Failed to place sandbox")
    assert plane.sandboxes.get("team", sandbox_id) == before
    assert (plane.registry.use_of("team").sandboxes, plane.registry.use_of("team").paused) == counts
    plane.node.fault = None
    await (plane.pausing.pause("team", sandbox_id) if is_pause else plane.pausing.resume("team", sandbox_id, AGAIN))


async def test_connect_waits_for_a_pause_that_fails(plane: Plane) -> None:
    """The sandbox runs on, so the connect succeeds and does not say that it resumed it."""
    sandbox_id = await plane.create()
    pausing = await plane.begin(plane.pausing.pause("team", sandbox_id))
    connecting = asyncio.create_task(plane.pausing.connect("team", sandbox_id, AGAIN))
    plane.node.fault = NoCapacityError("full")
    plane.node.gate.set()
    with pytest.raises(NoCapacityError):
        await pausing
    _, is_resumed = await connecting
    assert (is_resumed, plane.state(sandbox_id)) == (False, SandboxState.RUNNING)


async def test_start_without_memory_does_not_join_one_with(plane: Plane) -> None:
    """A client that wants a reboot is never given the old processes."""
    sandbox_id = await plane.paused()
    task = await plane.begin(plane.pausing.resume("team", sandbox_id, AGAIN))
    for work in (plane.pausing.resume, plane.pausing.connect):
        with pytest.raises(StartInFlightError):
            await work("team", sandbox_id, replace(AGAIN, memory=False))
    plane.node.gate.set()
    await task
    assert [request.memory for request in plane.node.resumes] == [True]


async def test_silent_agent(plane: Plane) -> None:
    """A pause that needs it is refused; after another pause the sandbox can only be started anew."""
    sandbox_id = await plane.create()
    plane.agents.answer = False
    for choice in ({"needs_agent": True}, {"memory": False}):
        with pytest.raises(AgentSilentError):
            await plane.pausing.pause("team", sandbox_id, **choice)
        assert plane.state(sandbox_id) is SandboxState.RUNNING
    assert (plane.node.pauses, plane.unreachable) == ([], [])
    await plane.pausing.pause("team", sandbox_id)
    plane.pausing.paused_by_node(PausedSandbox(sandbox_id=sandbox_id, pause=Pause(kind=PauseKind.CHECKPOINT, at=1.0)))
    await plane.pausing.close()
    for work in (plane.pausing.resume, plane.pausing.connect):
        with pytest.raises(AgentSilentAtPauseError, match="memory=false"):
            await work("team", sandbox_id, AGAIN)
    assert plane.node.resumes == []
    await plane.pausing.resume("team", sandbox_id, replace(AGAIN, memory=False))
    assert [request.memory for request in plane.node.resumes] == [False]


async def test_quota_of_running_ones(plane: Plane) -> None:
    """A paused sandbox leaves its place to another one; a resume without a place leaves it paused."""
    sandbox_id = await plane.paused()
    others = [await plane.create() for _ in range(3)]
    for work in (plane.pausing.resume, plane.pausing.connect):
        with pytest.raises(QuotaExceededError, match="3 live sandboxes"):
            await work("team", sandbox_id, AGAIN)
        assert plane.state(sandbox_id) is SandboxState.PAUSED
    await plane.sandboxes.kill("team", others[0])
    await plane.pausing.resume("team", sandbox_id, AGAIN)
    assert plane.registry.use_of("team").sandboxes == 3


async def test_resumes_at_once_keep_the_limit(plane: Plane) -> None:
    """Of resumes of several sandboxes at the same moment no more succeed than the limit allows."""
    ids = [await plane.paused() for _ in range(3)]
    others = [await plane.create() for _ in range(2)]
    done = await outcomes(*(plane.pausing.resume("team", sandbox_id, AGAIN) for sandbox_id in ids))
    assert sum(isinstance(one, Sandbox) for one in done) == 1
    assert len(others) == 2


async def test_quota_of_paused_ones(plane: Plane) -> None:
    """A team with all its paused sandboxes pauses no other, which runs on."""
    for _ in range(3):
        await plane.paused()
    sandbox_id = await plane.create()
    with pytest.raises(QuotaExceededError, match="max_paused_per_team"):
        await plane.pausing.pause("team", sandbox_id)
    assert plane.state(sandbox_id) is SandboxState.RUNNING


async def test_auto_pause_has_its_place_from_the_creation_on(plane: Plane) -> None:
    """A sandbox that will be paused at its deadline takes its place when it is created."""
    for _ in range(3):
        await plane.paused(lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE))
    sandbox_id = await plane.create()
    with pytest.raises(QuotaExceededError, match="paused"):
        await plane.pausing.pause("team", sandbox_id)
    with pytest.raises(QuotaExceededError, match="paused"):
        await plane.create(lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE_FILES))
    assert (plane.registry.use_of("team").sandboxes, plane.registry.use_of("team").paused) == (1, 3)


async def test_timeout_zero(plane: Plane) -> None:
    """It does at once what the lifetime ends with: a pause of the chosen kind, or the end."""
    for action, kind in ((TimeoutAction.PAUSE, PauseKind.FROZEN), (TimeoutAction.PAUSE_FILES, PauseKind.FILES)):
        sandbox_id = await plane.create(lifecycle=Lifecycle(on_timeout=action))
        await plane.pausing.set_timeout("team", sandbox_id, 0)
        row = plane.sandboxes.get("team", sandbox_id)
        assert row.pause is not None
        assert (row.state, row.pause.kind) == (SandboxState.PAUSED, kind)
    sandbox_id = await plane.create()
    await plane.pausing.set_timeout("team", sandbox_id, 0)
    with pytest.raises(SandboxNotFoundError, match="reached its timeout"):
        plane.sandboxes.get("team", sandbox_id)
    assert plane.log.changes == [("paused", "timeout")] * 2


async def test_timeout_zero_waits_for_a_capture(plane: Plane) -> None:
    """As a kill does: the capture is whole, and the sandbox ends after it."""
    sandbox_id = await plane.create()
    with plane.sandboxes.standstills.one(sandbox_id):
        ending = asyncio.create_task(plane.pausing.set_timeout("team", sandbox_id, 0))
        await turns()
        assert (ending.done(), list(plane.node.live)) == (False, [sandbox_id])
    await ending
    assert plane.node.live == {}


async def test_timeout_set_just_before_the_deadline(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the node has accepted it, the sandbox lives on, although its old deadline has passed meanwhile."""
    sandbox_id = await plane.create()
    accept = plane.node.set_deadline

    async def accept_late(request: SetDeadline) -> None:
        await accept(request)
        await plane.registry.set_end(sandbox_id, time.time() - 1)

    monkeypatch.setattr(plane.node, "set_deadline", accept_late)
    await plane.pausing.set_timeout("team", sandbox_id, 30)
    assert plane.sandboxes.get("team", sandbox_id).end_at == plane.node.live[sandbox_id].end_at > time.time() + 20


async def test_node_pauses_by_itself(plane: Plane) -> None:
    """Its event makes the row paused, a later one says how it is kept, and the log hears of both."""
    sandbox_id = await plane.create(lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE))
    await plane.registry.set_end(sandbox_id, time.time() - 0.1)
    for kind in (PauseKind.FROZEN, PauseKind.CHECKPOINT):
        plane.pausing.paused_by_node(PausedSandbox(sandbox_id=sandbox_id, pause=Pause(kind=kind, at=5.0)))
        await plane.pausing.close()
        row = await plane.stored(sandbox_id)
        assert row.pause == Pause(kind=kind, at=5.0)
        assert row.state is SandboxState.PAUSED
    assert plane.unreachable == [sandbox_id]
    assert plane.log.changes == [("paused", "timeout"), ("paused", "server")]


async def test_deadline_before_the_nodes_word(plane: Plane) -> None:
    """From its deadline on it counts as pausing; a resume waits for the node, and resumes it."""
    sandbox_id = await plane.create(lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE_FILES))
    await plane.registry.set_end(sandbox_id, time.time() - 1)
    assert plane.state(sandbox_id) is SandboxState.PAUSING
    with pytest.raises(ConflictError):
        await plane.pausing.set_timeout("team", sandbox_id, 100)
    await plane.pausing.resume("team", sandbox_id, AGAIN)
    assert ([request.memory for request in plane.node.pauses], plane.agents.asked) == ([False], 0)


@pytest.mark.parametrize("is_paused", [True, False])
async def test_connect_at_the_deadline(plane: Plane, is_paused: bool) -> None:
    """A sandbox that its node has not paused yet lives on; one that it has is resumed."""
    sandbox_id = await plane.create(lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE))
    await plane.registry.set_end(sandbox_id, time.time() - 1)
    if is_paused:
        await plane.node.pause(PauseSandbox(sandbox_id))
    row, is_resumed = await plane.pausing.connect("team", sandbox_id, AGAIN)
    assert (is_resumed, row.end_at > time.time() + 40, plane.state(sandbox_id)) == (is_paused, True, SandboxState.RUNNING)
    assert len(plane.node.resumes) == is_paused


async def test_auto_pause_of_a_resume_sticks(plane: Plane) -> None:
    """A resume that names auto-pause replaces the creation's choice, but not the kind; others keep it."""
    sandbox_id = await plane.paused()
    row = await plane.pausing.resume("team", sandbox_id, replace(AGAIN, auto_pause=True))
    assert row.lifecycle == Lifecycle(on_timeout=TimeoutAction.PAUSE)
    assert plane.node.resumes[-1].lifecycle == row.lifecycle
    await plane.pausing.pause("team", sandbox_id)
    row = await plane.pausing.resume("team", sandbox_id, AGAIN)
    assert row.lifecycle.on_timeout is TimeoutAction.PAUSE
    files = await plane.paused(lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE_FILES))
    row = await plane.pausing.resume("team", files, replace(AGAIN, auto_pause=True))
    assert row.lifecycle.on_timeout is TimeoutAction.PAUSE_FILES
    await plane.pausing.pause("team", files)
    row = await plane.pausing.resume("team", files, replace(AGAIN, auto_pause=False))
    assert row.lifecycle.on_timeout is TimeoutAction.KILL
    assert plane.registry.use_of("team").paused == 1


async def test_wake(plane: Plane) -> None:
    """Requests wake a sandbox once, for the lifetime of its creation within bounds."""
    for timeout_s, wake_s in ((10, 300), (420, 420)):
        sandbox_id = await plane.paused(lifecycle=Lifecycle(wake_s=timeout_s))
        before = len(plane.node.resumes)
        await asyncio.gather(*(plane.pausing.wake(sandbox_id) for _ in range(5)))
        assert len(plane.node.resumes) == before + 1
        assert abs(plane.sandboxes.get("team", sandbox_id).end_at - time.time() - wake_s) < 5
        await plane.pausing.wake(sandbox_id)
        assert len(plane.node.resumes) == before + 1
    assert plane.log.changes[-1] == ("resumed", "traffic")


async def test_what_traffic_does_not_wake(plane: Plane) -> None:
    """A sandbox whose client did not choose it, one that keeps only its files, and one that is gone."""
    plain = await plane.paused()
    files = await plane.create(lifecycle=Lifecycle(wake_s=300))
    await plane.pausing.pause("team", files, memory=False)
    for sandbox_id in (plain, files, new_sandbox_id()):
        with pytest.raises(SandboxNotFoundError):
            await plane.pausing.wake(sandbox_id)
    assert plane.node.resumes == []


async def test_paused_sandbox_outlives_its_deadline(plane: Plane) -> None:
    """A deadline long ago neither hides nor ends it; only the retention of a lost node's sandbox does."""
    sandbox_id = await plane.paused()
    for ago_s, is_kept in ((4000, True), (5000, False)):
        await plane.registry.set_paused(sandbox_id, Pause(kind=PauseKind.FROZEN, at=time.time() - ago_s))
        await plane.registry.prune()
        assert (plane.registry.peek(sandbox_id) is not None) == is_kept
        assert plane.registry.ended(sandbox_id) is None


async def test_node_that_is_away_at_the_deadline(plane: Plane) -> None:
    """A sandbox that it was to pause is kept as long as a paused one, because it may have paused it."""
    sandbox_id = await plane.create(lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE))
    for ago_s, is_kept in ((4000, True), (5000, False)):
        await plane.registry.set_end(sandbox_id, time.time() - ago_s)
        await plane.registry.prune()
        assert (plane.registry.peek(sandbox_id) is not None) == is_kept


async def test_paused_sandbox_ends(plane: Plane) -> None:
    """The node's word that a paused sandbox is gone ends its row, with the reason."""
    sandbox_id = await plane.paused()
    plane.sandboxes.ended(EndedSandbox(sandbox_id=sandbox_id, reason=EndReason.NO_SPACE, at=7.0))
    with pytest.raises(SandboxNotFoundError, match="out of disk space"):
        await plane.pausing.connect("team", sandbox_id, AGAIN)


async def test_other_teams_sandbox(plane: Plane) -> None:
    """Another team's sandbox looks like none, whatever its state."""
    sandbox_id = await plane.paused()
    works = [
        plane.pausing.pause("other", sandbox_id),
        plane.pausing.resume("other", sandbox_id, AGAIN),
        plane.pausing.connect("other", sandbox_id, AGAIN),
        plane.pausing.set_timeout("other", sandbox_id, 5),
        plane.sandboxes.kill("other", sandbox_id),
    ]
    for error in await outcomes(*works):
        assert isinstance(error, SandboxNotFoundError)
        assert str(error) == f"sandbox {sandbox_id} doesn't exist or you don't have access to it"


async def test_too_long_a_lifetime_comes_before_an_unknown_id(plane: Plane) -> None:
    """The lifetime is refused by name, for every id."""
    for work in (plane.pausing.resume, plane.pausing.connect):
        with pytest.raises(CloisterError, match="longer than this server allows") as refused:
            await work("team", "unknown", Resumption(timeout_s=3601))
        assert refused.value.code == "invalid_request"


async def test_kills_at_once(plane: Plane) -> None:
    """Kills at the same moment all succeed; a later one finds nothing."""
    sandbox_id = await plane.paused()
    assert await outcomes(*(plane.sandboxes.kill("team", sandbox_id) for _ in range(3))) == [None] * 3
    with pytest.raises(SandboxNotFoundError):
        await plane.sandboxes.kill("team", sandbox_id)
