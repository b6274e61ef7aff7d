"""Watches the space for sandboxes' disks: sets their bounds, warns, and stops the fastest-growing sandbox when space runs out (I6).

The bounds alone keep every accepted byte safe (``disks/space.py``). Stopping a sandbox gives the others space to go on. It stops one at
a time, and the next only when the space of the one before has come back. Runs in: the supervisor's event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from cloister.disks.space import DiskSpace, Space
from cloister.errors import CloisterError

__all__ = ["DiskGuard"]

_log = structlog.get_logger("cloister.node")
_RETRY_S = 1.0
_LEAVING_S = 15.0
"""How long the disk of a stopped sandbox may stay; after that another sandbox is stopped."""
_RETURN_S = 1.0
"""The kernel frees the blocks of a removed disk within this time."""


class DiskGuard:
    """One task, :meth:`run`."""

    def __init__(self, space: DiskSpace, stop: Callable[[str], Awaitable[None]]) -> None:
        """``stop`` ends a sandbox for want of space. Its disk is removed in the background."""
        self._space = space
        self._stop = stop
        self._stopped = 0
        self._last: Space | None = None
        self._is_low = False
        self._leaving: str | None = None
        self._left_at = -_RETURN_S

    def counts(self) -> dict[str, int]:
        """Bytes ``size``, ``reserve``, ``free``, ``promised`` and ``spare`` at the last survey, and how many sandboxes were ``stopped``."""
        found = {"stopped": self._stopped}
        if self._last is not None:
            found |= {"size": self._last.size, "reserve": self._last.reserve}
            found |= {"free": self._last.free, "promised": self._last.promised, "spare": self._last.spare}
        return found

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            try:
                self._last = await asyncio.to_thread(self._space.survey)
                self._tell(self._last)
                await self._relieve(self._last)
                await asyncio.sleep(self._last.interval_s)
            except (CloisterError, OSError):  # task border: bounds stay as they are, so nothing is lost meanwhile
                _log.exception("disk.not_surveyed")
                await asyncio.sleep(_RETRY_S)

    async def _relieve(self, space: Space) -> None:
        now = time.monotonic()
        if self._leaving is not None and (not self._space.knows(self._leaving) or now > self._left_at + _LEAVING_S):
            self._leaving, self._left_at = None, now
        if not space.is_short or space.fastest is None or self._leaving is not None or now < self._left_at + _RETURN_S:
            return
        self._leaving, self._left_at = space.fastest, now
        self._stopped += 1
        _log.error("sandbox.stopped_for_space", sandbox_id=space.fastest, free_mib=space.free >> 20, spare_mib=space.spare >> 20)
        await self._stop(space.fastest)

    def _tell(self, space: Space) -> None:
        if space.is_low != self._is_low:
            self._is_low = space.is_low
            tell = _log.warning if space.is_low else _log.info
            event = "disk.low" if space.is_low else "disk.recovered"
            tell(event, free_mib=space.free >> 20, promised_mib=space.promised >> 20, spare_mib=space.spare >> 20, disks=space.disks)
