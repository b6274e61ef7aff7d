"""Holds up the work of a fake node for as long as a test wants, instead of a delay, which a busy machine makes too short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Hold"]

_LONGEST_S = 60.0


class Hold:
    """Tests hold in their thread; the node passes in its event loop."""

    def __init__(self) -> None:
        self._is_held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """In the block nothing passes."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    async def passed(self) -> None:
        """Return when it is not held. Raises: AssertionError, if a test never lets go."""
        until = time.monotonic() + _LONGEST_S
        while self._is_held:
            assert time.monotonic() < until, "held for ever"
            await asyncio.sleep(0.002)
