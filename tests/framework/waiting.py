"""Waiting for what comes by itself: by looks, or by turns of the event loop, and never by a time that a busy machine makes too short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually", "turns"]

_T = TypeVar("_T")


def eventually(look: Callable[[], _T | None], timeout_s: float = 20) -> _T:
    """What ``look`` gives once it is true; an AssertionError when it takes too long."""
    until = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.005)
    return found


async def turns(count: int = 30) -> None:
    """Give the other tasks that many turns, some 2 ms apart: what they do without waiting for anything else is done then."""
    for _ in range(count):
        await asyncio.sleep(0.002)
