"""A drain that pauses sandboxes: it gets those that are just being resumed, and pauses no further one after it was undone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cloister.errors import UnavailableError
from cloister.model.lifecycle import PauseKind
from cloister.model.sandbox import SandboxState
from cloister.nodewire.requests import ChangeDrain
from framework.pausable import PausableNode, node_in, until, within

PAUSE, UNDO, PLAIN = (
    ChangeDrain(is_on=True, pause=True, reason=""),
    ChangeDrain(is_on=False, pause=False, reason=""),
    ChangeDrain(is_on=True, pause=False, reason=""),
)


def running(node: PausableNode) -> set[str]:
    """The sandboxes that run."""
    return {record.sandbox_id for record in node.live.running()}


@pytest.mark.parametrize("memory", [True, False])
async def test_a_resume_that_was_admitted_before_is_paused_afterwards(tmp_path: Path, memory: bool) -> None:
    """Though it ends after the drain has begun; and no resume begins then."""
    async with node_in(tmp_path) as node:
        await node.create()
        await node.pause(memory=False)
        node.steps.may_create.clear()
        resuming = asyncio.create_task(node.resume(memory=memory))
        await until(lambda: node.live.find_any("one").record.state is SandboxState.RESUMING)
        draining = asyncio.create_task(node.handlers.change_drain(PAUSE))
        await until(lambda: node.parts.drain.empties)
        node.steps.may_create.set()
        assert (await within(resuming)).state is SandboxState.RUNNING
        drained = await within(draining)
        assert (drained.running, drained.paused) == (0, {PauseKind.FROZEN: 1})
        with pytest.raises(UnavailableError, match="resumes none"):
            await node.resume()


@pytest.mark.parametrize("change", [UNDO, PLAIN])
async def test_a_drain_that_is_undone_pauses_no_further_sandbox(tmp_path: Path, change: ChangeDrain) -> None:
    """Nor does one that was begun anew without pauses. A pause that has begun is completed, and the sandbox can be resumed."""
    async with node_in(tmp_path) as node:
        names = {f"s{number}" for number in range(12)}
        for name in names:
            (await node.create(name)).may_freeze.clear()
        draining = asyncio.create_task(node.handlers.change_drain(PAUSE))
        await until(lambda: sum(sandbox.freezing.is_set() for sandbox in node.steps.made.values()) == _AT_ONCE)
        await node.handlers.change_drain(change)
        for sandbox in node.steps.made.values():
            sandbox.may_freeze.set()
        drained = await within(draining)
        paused = names - running(node)
        assert 0 < len(paused) < len(names)
        assert drained.paused == {PauseKind.FROZEN: len(paused)}
        assert (drained.state is None) is (change is UNDO)
        assert (await node.resume(min(paused))).state is SandboxState.RUNNING


_AT_ONCE = 6
"""Freezes of the node at a time."""
