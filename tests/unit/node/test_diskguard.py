"""When a sandbox is stopped for want of space: the fastest one, one at a time, and only when it is short."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any, cast

from structlog.testing import capture_logs

from cloister.disks.space import Space
from cloister.node.diskguard import DiskGuard
from framework.waiting import turns

_PLENTY = Space(
    size=2000, reserve=50, free=1000, promised=10, spare=900, disks=3, is_low=False, is_short=False, fastest="fast", interval_s=0.001
)
_LOW = replace(_PLENTY, spare=90, is_low=True)
_SHORT = replace(_LOW, spare=1, is_short=True)


class FakeSpace:
    """Finds what it is told to."""

    def __init__(self) -> None:
        self.found = _PLENTY
        self.known = {"fast", "slow"}

    def survey(self) -> Space:
        """What was set."""
        return self.found

    def knows(self, name: str) -> bool:
        """Whether its disk is there still."""
        return name in self.known


async def test_the_fastest_is_stopped_once() -> None:
    """Nothing is stopped while there is space; then the fastest, and no other as long as its disk is there. Each change is told once."""
    space, stopped = FakeSpace(), list[str]()

    async def stop(name: str) -> None:
        stopped.append(name)
        space.found = replace(_SHORT, fastest="slow")

    guard = DiskGuard(cast("Any", space), stop)
    with capture_logs() as logs:
        running = asyncio.create_task(guard.run())
        await turns()
        space.found = _LOW
        await turns()
        assert stopped == []
        space.found = _SHORT
        await turns()
        assert stopped == ["fast"]
        assert guard.counts() == {"stopped": 1, "size": 2000, "reserve": 50, "free": 1000, "promised": 10, "spare": 1}
        space.found = _PLENTY
        await turns()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert [entry["event"] for entry in logs] == ["disk.low", "sandbox.stopped_for_space", "disk.recovered"]


async def test_a_fault_of_a_look_does_not_end_the_watch() -> None:
    """The next look comes."""
    looks = 0
    looked = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Failing(FakeSpace):
        def survey(self) -> Space:
            nonlocal looks
            looks += 1
            if looks == 1:
                raise OSError("gone")
            loop.call_soon_threadsafe(looked.set)
            return super().survey()

    async def stop(_name: str) -> None:
        raise AssertionError

    guard = DiskGuard(cast("Any", Failing()), stop)
    with capture_logs():
        running = asyncio.create_task(guard.run())
        await asyncio.wait_for(looked.wait(), 20)
        running.cancel()
