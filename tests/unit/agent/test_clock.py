"""The agent's clock across pauses: it stands still in them, and only in them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from cloister.agent.clock import PausableLoop


class _Loop(PausableLoop):
    """A loop whose kernel clock a test sets forward."""

    ahead_s = 0.0

    def _clock(self) -> float:
        return super()._clock() + self.ahead_s


@pytest.fixture
def loop() -> Iterator[_Loop]:
    """A loop of the test's own."""
    made = _Loop()
    yield made
    made.close()


def test_a_time_limit_does_not_run_out_in_a_pause(loop: _Loop) -> None:
    """Of a limit of a minute, an hour's pause takes nothing: it ends after the rest of it."""

    async def run() -> tuple[bool, float]:
        fired = asyncio.Event()
        loop.call_later(60, fired.set)
        before = loop.time()
        loop.expect_pause()
        loop.ahead_s += 3600
        await asyncio.sleep(0.06)
        survived = not fired.is_set()
        loop.ahead_s += 61  # not a pause: by now the loop has ceased to look
        return survived, loop.time() - before

    survived, passed_s = loop.run_until_complete(run())
    assert survived
    assert passed_s < 60


def test_without_an_announcement_time_passes(loop: _Loop) -> None:
    """A gap that was not announced is time: a slow host does not make limits longer."""

    async def run() -> bool:
        fired = asyncio.Event()
        loop.call_later(60, fired.set)
        loop.ahead_s += 61
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return fired.is_set()

    assert loop.run_until_complete(run())


def test_the_watch_ends(loop: _Loop) -> None:
    """Some seconds after an announcement without a pause the loop looks no more, and later gaps are time."""

    async def run() -> None:
        loop.expect_pause()
        for _ in range(60):  # 12 s in steps that are no gap
            loop.ahead_s += 0.2
            loop.time()
        await asyncio.sleep(0.06)
        before = loop.time()
        loop.ahead_s += 100
        assert loop.time() - before >= 100

    loop.run_until_complete(run())


def test_time_never_goes_back(loop: _Loop) -> None:
    """Whatever pauses are announced and come, the clock grows."""

    async def run() -> None:
        last = loop.time()
        for step in (0.0, 0.3, 5.0, 0.1, 1000.0, -3600.0, 1.0):
            loop.expect_pause()
            loop.ahead_s += step
            now = loop.time()
            assert last <= now < last + 0.5
            last = now

    loop.run_until_complete(run())
