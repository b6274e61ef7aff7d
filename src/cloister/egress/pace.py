"""Lets the connections of one sandbox take turns: however many of them have work, other sandboxes wait for one piece of it.

Event loop only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["HANDSHAKES_AT_ONCE", "HANDSHAKES_PER_S", "PIECE", "Pace"]

PIECE = 32
"""Messages or frames that one turn may read. Each takes some 50 µs, however few bytes it has."""
HANDSHAKES_PER_S, HANDSHAKES_AT_ONCE = 50, 100
"""Connections with TLS on both sides that a sandbox may begin. Each takes some 4 ms of the process."""


class Pace:
    """The turns of one sandbox."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._turn = asyncio.Lock()
        self._clock = clock
        self._begun_until = 0.0
        """The time for which the handshakes so far would be enough at the rate."""

    async def turn(self) -> None:
        """Wait for a turn: the caller may do a short piece of work, and must come back before the next one.

        Each round of the event loop has one turn, and those who wait get theirs in order.
        """
        async with self._turn:
            await asyncio.sleep(0)

    async def handshake(self) -> None:
        """Wait until the rate admits another handshake."""
        await asyncio.sleep(self.reserve_handshake())

    def reserve_handshake(self) -> float:
        """Count a handshake. Returns the seconds until it may begin."""
        now = self._clock()
        self._begun_until = max(self._begun_until, now) + 1 / HANDSHAKES_PER_S
        return max(0.0, self._begun_until - now - HANDSHAKES_AT_ONCE / HANDSHAKES_PER_S)
