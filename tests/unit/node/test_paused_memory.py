"""The memory of frozen sandboxes: which of them is moved out of the host's memory, when and how."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from cloister.errors import RuntimeFailedError
from cloister.linux.meminfo import HostMemory
from cloister.node.paused_memory import FrozenSandbox, MemoryPolicy, Move, PausedMemory, Way, Ways, choose
from framework.waiting import turns

MIB = 1 << 20
POLICY = MemoryPolicy(reserve=512 * MIB, after_s=60)
CHECKPOINTS = Ways(checkpoints=True)
PLENTY = HostMemory(total=8192 * MIB, available=4096 * MIB, swap_total=1024 * MIB, swap_free=1024 * MIB)
LOW = replace(PLENTY, available=1023 * MIB)
NO_SWAP = replace(LOW, swap_total=0, swap_free=0)


def frozen(name: str, at: float = 0.0, mib: int = 64) -> FrozenSandbox:
    """A frozen sandbox that holds so much memory."""
    return FrozenSandbox(sandbox_id=name, frozen_at=at, resident=mib * MIB, swapped=0)


def chosen(sandboxes: Sequence[FrozenSandbox], host: HostMemory = PLENTY, ways: Ways | None = None, now: float = 60) -> Move | None:
    """The first move; without checkpoints, if not said otherwise."""
    return choose(sandboxes, host, POLICY, ways or Ways(), now)


def test_memory_moves_after_the_time() -> None:
    """Not a moment before, and not where little would be won."""
    assert chosen([frozen("a")], now=59) is None
    assert chosen([frozen("a")]) == Move("a", Way.SWAP, is_urgent=False)
    assert chosen([frozen("a", mib=7)]) is None


def test_the_longest_paused_moves_first_when_memory_is_low() -> None:
    """Also before its time, and also a small one; one without memory never."""
    sandboxes = [frozen("new", 50), frozen("old", 10, mib=2), frozen("oldest", 5, mib=0)]
    assert chosen(sandboxes, now=55) is None
    assert chosen(sandboxes, LOW, now=55) == Move("old", Way.SWAP, is_urgent=True)


def test_checkpoints_are_preferred() -> None:
    """Where one was refused, swap is the second way."""
    assert chosen([frozen("a")], ways=CHECKPOINTS) == Move("a", Way.CHECKPOINT, is_urgent=False)
    assert chosen([replace(frozen("a"), is_refused=True)], ways=CHECKPOINTS) == Move("a", Way.SWAP, is_urgent=False)


def test_swap_has_to_have_room() -> None:
    """A host without swap, or with too little, moves nothing to it."""
    assert chosen([frozen("a")], NO_SWAP) is None
    assert chosen([frozen("a"), frozen("b", mib=16)], replace(LOW, swap_free=20 * MIB)) == Move("b", Way.SWAP, is_urgent=True)


class Sandboxes:
    """Frozen sandboxes whose moves are recorded; a move to swap empties their memory, unless it is to fail."""

    def __init__(self, *sandboxes: FrozenSandbox) -> None:
        self.here = {one.sandbox_id: one for one in sandboxes}
        self.moved: list[tuple[str, str]] = []
        self.fails = False

    async def frozen(self) -> Sequence[FrozenSandbox]:
        """Those that are left."""
        return tuple(self.here.values())

    async def checkpoint(self, sandbox_id: str) -> None:
        """It is frozen no more."""
        self.moved.append((sandbox_id, "checkpoint"))
        if self.fails:
            self.here[sandbox_id] = replace(self.here[sandbox_id], is_refused=True)
            raise RuntimeFailedError("it has a System V segment")
        del self.here[sandbox_id]

    async def page_out(self, sandbox_id: str) -> None:
        """Its memory is in swap."""
        self.moved.append((sandbox_id, "swap"))
        one = self.here[sandbox_id]
        if not self.fails:
            self.here[sandbox_id] = replace(one, resident=0, swapped=one.resident)


async def test_moves_go_on_until_there_is_memory() -> None:
    """Each move is followed by a look, and the newest pause is left in memory when there is enough."""
    sandboxes = Sandboxes(frozen("c", time.time()), frozen("a", time.time() - 20), frozen("b", time.time() - 10))
    policy = replace(POLICY, after_s=1e6)
    memory = PausedMemory(sandboxes, policy, look=lambda: LOW if len(sandboxes.moved) < 2 else PLENTY)
    await memory.relieve()
    assert sandboxes.moved == [("a", "swap"), ("b", "swap")]
    counts = memory.counts()
    assert counts == {
        "resident": 64 * MIB,
        "swapped": 128 * MIB,
        "checkpointed": 0,
        "paged_out": 2,
        "not_moved": 0,
        "stuck": 0,
    }


async def test_a_refused_checkpoint_goes_to_swap_and_is_not_asked_again() -> None:
    """A sandbox that cannot be written stays frozen."""
    sandboxes = Sandboxes(frozen("a"))
    sandboxes.fails = True
    memory = PausedMemory(sandboxes, POLICY, checkpoint=sandboxes.checkpoint, look=lambda: PLENTY)
    with capture_logs() as logs:
        await memory.relieve()
        await memory.relieve()
    assert sandboxes.moved == [("a", "checkpoint"), ("a", "swap")]
    assert memory.counts()["not_moved"] == 1
    assert [entry["event"] for entry in logs] == ["paused_memory.not_moved", "paused_memory.moved"]
    sandboxes.here["a"] = frozen("a", 1.0)  # it was resumed and paused again
    with capture_logs():
        await memory.relieve()
    assert len(sandboxes.moved) == 4


async def test_a_host_without_a_way_out_ends_nothing_and_says_so_once() -> None:
    """The sandboxes stay frozen; the log says it once, and when it is over."""
    sandboxes, host = Sandboxes(frozen("a"), frozen("b")), NO_SWAP
    memory = PausedMemory(sandboxes, POLICY, look=lambda: host)
    with capture_logs() as logs:
        await memory.relieve()
        await memory.relieve()
        assert memory.counts()["stuck"] == 1
        host = replace(NO_SWAP, available=2048 * MIB)
        await memory.relieve()
    assert [entry["event"] for entry in logs] == ["paused_memory.stuck", "paused_memory.recovered"]
    assert sandboxes.moved == []
    assert memory.counts()["stuck"] == 0


async def test_a_fault_of_a_look_does_not_end_the_watch() -> None:
    """The next look comes, and moves what is due."""
    sandboxes = Sandboxes(frozen("a"))
    failures = [OSError("gone")]

    def look() -> HostMemory:
        if failures:
            raise failures.pop()
        return PLENTY

    memory = PausedMemory(sandboxes, POLICY, look=look)
    with capture_logs():
        running = asyncio.create_task(memory.run(interval_s=0))
        await turns()
        running.cancel()
    assert sandboxes.moved == [("a", "swap")]


@pytest.mark.parametrize("host", [PLENTY, LOW])
async def test_nothing_frozen_is_nothing_to_do(host: HostMemory) -> None:
    """No host is stuck with what is not there."""
    memory = PausedMemory(Sandboxes(), POLICY, look=lambda: host)
    await memory.relieve()
    assert memory.counts()["stuck"] == 0
