"""The node's word counts when it comes during a pause or resume, and when the answer to one was lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.control.pausing import Resumption
from cloister.errors import InternalError, NodeUnreachableError
from cloister.model.lifecycle import Lifecycle, PauseKind, TimeoutAction
from cloister.model.node import PausedSandbox
from cloister.model.sandbox import SandboxState
from cloister.processes.api_routes import wakes_by_traffic
from framework.pausing_lab import Plane, open_plane
from framework.waiting import eventually_async, turns

AGAIN = Resumption(timeout_s=50)


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    """Use cases on a store with one team."""
    async with open_plane(tmp_path) as plane:
        yield plane


def keep_files_only(plane: Plane, sandbox_id: str) -> PausedSandbox:
    """The node's paused sandbox loses its memory; the event about it."""
    record = plane.node.find(sandbox_id)
    assert record.pause is not None
    pause = replace(record.pause, kind=PauseKind.FILES)
    plane.node.live[sandbox_id] = replace(record, pause=pause)
    return PausedSandbox(sandbox_id=sandbox_id, pause=pause)


async def test_memory_that_a_failed_resume_gave_up(plane: Plane) -> None:
    """The event comes before the answer; afterwards the row says that only files are kept, and traffic does not wake the sandbox."""
    sandbox_id = await plane.paused(lifecycle=Lifecycle(wake_s=300))
    assert wakes_by_traffic(plane.sandboxes.get("team", sandbox_id))
    resuming = await plane.begin(plane.pausing.resume("team", sandbox_id, replace(AGAIN, memory=False)))
    plane.pausing.paused_by_node(keep_files_only(plane, sandbox_id))
    plane.node.fault = InternalError("its template is gone")
    plane.node.gate.set()
    with pytest.raises(InternalError):
        await resuming
    await eventually_async(lambda: not wakes_by_traffic(plane.sandboxes.get("team", sandbox_id)))
    row = await plane.stored(sandbox_id)
    assert (row.state, row.pause) == (SandboxState.PAUSED, plane.node.find(sandbox_id).pause)


async def test_an_event_that_is_older_than_the_resume(plane: Plane) -> None:
    """A sandbox that has been resumed meanwhile is not taken for paused."""
    sandbox_id = await plane.paused()
    pause = plane.node.find(sandbox_id).pause
    assert pause is not None
    resuming = await plane.begin(plane.pausing.resume("team", sandbox_id, AGAIN))
    plane.pausing.paused_by_node(PausedSandbox(sandbox_id=sandbox_id, pause=pause))
    plane.node.gate.set()
    await resuming
    await turns()
    assert plane.state(sandbox_id) is SandboxState.RUNNING
    assert plane.log.changes == [("paused", "api"), ("resumed", "api")]


@pytest.mark.parametrize("is_pause", [True, False])
async def test_a_change_whose_answer_was_lost(plane: Plane, monkeypatch: pytest.MonkeyPatch, is_pause: bool) -> None:
    """The caller gets the error, and the row what the node has made of the sandbox."""
    sandbox_id = await (plane.create() if is_pause else plane.paused())
    name = "pause" if is_pause else "resume"
    change = getattr(plane.node, name)

    async def lose(request: Any) -> None:
        await change(request)
        raise NodeUnreachableError("the node supervisor went away")

    monkeypatch.setattr(plane.node, name, lose)
    with pytest.raises(NodeUnreachableError):
        await (plane.pausing.pause("team", sandbox_id) if is_pause else plane.pausing.resume("team", sandbox_id, AGAIN))
    wanted = SandboxState.PAUSED if is_pause else SandboxState.RUNNING
    await eventually_async(lambda: plane.state(sandbox_id) is wanted)
    assert (plane.registry.use_of("team").sandboxes, plane.registry.use_of("team").paused) == ((0, 1) if is_pause else (1, 0))


async def test_a_lifecycle_whose_answer_was_lost(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume that changed it, and whose answer was lost, counts also if another resume finds the sandbox running."""
    sandbox_id = await plane.paused(lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE))
    resume = plane.node.resume

    async def lose(request: Any) -> None:
        await resume(request)
        raise NodeUnreachableError("the node supervisor went away")

    async def go_away(_request: Any) -> None:
        raise NodeUnreachableError("the node supervisor went away")

    monkeypatch.setattr(plane.node, "resume", lose)
    monkeypatch.setattr(plane.node, "get", go_away)
    with pytest.raises(NodeUnreachableError):
        await plane.pausing.resume("team", sandbox_id, replace(AGAIN, auto_pause=False))
    monkeypatch.setattr(plane.node, "resume", resume)
    row = await plane.pausing.resume("team", sandbox_id, AGAIN)
    assert row.lifecycle == plane.node.live[sandbox_id].lifecycle == Lifecycle(on_timeout=TimeoutAction.KILL)


async def test_a_node_that_stays_away(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox stays as it was, and a stop of the server does not wait for the node."""
    sandbox_id = await plane.create()
    asked = asyncio.Event()

    async def be_silent(_request: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    plane.node.fault = NodeUnreachableError("the node supervisor does not answer")
    monkeypatch.setattr(plane.node, "get", be_silent)
    with pytest.raises(NodeUnreachableError):
        await plane.pausing.pause("team", sandbox_id)
    async with asyncio.timeout(20):
        await asked.wait()
        assert plane.state(sandbox_id) is SandboxState.RUNNING
        await plane.pausing.close()
