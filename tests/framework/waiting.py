"""Waiting for what comes by itself: by looks, or by turns of the event loop, and never by a time that a busy machine makes too short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually", "eventually_async", "turns"]

_T = TypeVar("_T")


def eventually(look: Callable[[], _T | None], timeout_s: float = 20) -> _T:
    """The first true result of ``look``; raises AssertionError if it takes too long."""
    until = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.005)
    return found


async def eventually_async(look: Callable[[], _T | None], timeout_s: float = 20) -> _T:
    """As :func:`eventually`, while the event loop goes on."""
    until = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < until, "it did not come to that"
        await asyncio.sleep(0.002)
    return found


async def turns(count: int = 30) -> None:
    """Give the other tasks that many turns, some 2 ms apart: what they do without waiting for anything else is done then."""
    for _ in range(count):
        await asyncio.sleep(0.002)


async def until(is_so: Callable[[], bool], timeout_s: float = 20) -> None:
    """Wait until ``is_so()`` holds; raises TimeoutError if it takes too long."""
    async with asyncio.timeout(timeout_s):
        while not is_so():  # noqa: ASYNC110 - it watches things that have no events
            await asyncio.sleep(0.002)
