"""The frozen sandboxes of a node are measured once for each pause, and after a move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.errors import SandboxNotFoundError
from cloister.node.background import WorkerThreads
from cloister.node.frozen_sandboxes import LiveFrozenSandboxes
from framework.node_parts import WIDE
from framework.pausable import PausableNode, PausableSandbox, node_in


def lend_swap(sandbox: PausableSandbox) -> list[str]:
    """Give it memory that can be moved; the moves are recorded."""
    moves: list[str] = []

    def page_out() -> int:
        moves.append(sandbox.name)
        return 1

    fields: Any = sandbox
    fields.swapped_bytes = lambda: len(moves)
    fields.page_out = page_out
    return moves


def measured(node: PausableNode) -> int:
    """How often the sandbox was measured."""
    return node.steps.made["one"].calls.count("usage")


async def test_it_is_measured_once_for_each_pause(tmp_path: Path) -> None:
    """A running one is none of them; a move and a new pause each call for a new measurement."""
    async with node_in(tmp_path) as node:
        threads = WorkerThreads(1, "test")
        frozen = LiveFrozenSandboxes(node.live, threads)
        moves = lend_swap(await node.create())
        assert await frozen.frozen() == []
        paused = await node.pause()
        assert paused.pause is not None
        before = measured(node)
        for _ in range(3):
            (one,) = await frozen.frozen()
        assert (one.sandbox_id, one.frozen_at, one.resident, one.swapped) == ("one", paused.pause.at, 1, 0)
        assert measured(node) == before + 1
        await frozen.page_out("one")
        assert moves == ["one"]
        (one,) = await frozen.frozen()
        assert one.swapped == 1
        await node.resume()
        assert await frozen.frozen() == []
        with pytest.raises(SandboxNotFoundError, match="not frozen any more"):
            await frozen.page_out("one")
        again = await node.pause()
        assert again.pause is not None
        (one,) = await frozen.frozen()
        assert one.frozen_at == again.pause.at
        threads.close()


async def test_changes_are_counted(tmp_path: Path) -> None:
    """Those that were done and those that failed; a sandbox that is not there is neither."""
    async with node_in(tmp_path) as node:
        sandbox = await node.create()
        sandbox.freeze_faults.append(OSError("stuck"))
        with pytest.raises(OSError, match="stuck"):
            await node.pause()
        await node.pause()
        assert node.live.count_paused() == {"frozen": 1}
        await node.resume()
        with pytest.raises(SandboxNotFoundError):
            await node.pause("none")
        assert node.handlers.pausing.counts() == {"pause_failed": 1, "pause_done": 1, "resume_done": 1}
        assert node.live.count_paused() == {}


async def test_no_quota_stops_a_save(tmp_path: Path) -> None:
    """A stop pauses every sandbox, also beyond the number of paused ones that a team may have."""
    async with node_in(tmp_path, limits=replace(WIDE, paused=0)) as node:
        await node.create()
        saved = await node.handlers.pausing.save("one", memory=True)
        assert saved.is_frozen
