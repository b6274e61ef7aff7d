"""Cleans the store: at the start of unfinished work that a crash left, and every ten minutes of unused trees (template/garbage.py)."""

from __future__ import annotations

import asyncio
import time

import structlog

from cloister.errors import CloisterError
from cloister.template.garbage import GarbageCollector

__all__ = ["collect_garbage"]

_log = structlog.get_logger("cloister.node")
_INTERVAL_S = 600.0


async def collect_garbage(collector: GarbageCollector, retention_s: float, interval_s: float = _INTERVAL_S) -> None:
    """Sweep, then collect every ``interval_s`` in a thread, until cancelled. A collection under way runs to its end."""
    try:
        await asyncio.to_thread(collector.sweep)
    except (CloisterError, OSError):  # task border: every collection begins with a sweep
        _log.exception("store.not_swept")
    while True:
        await asyncio.sleep(interval_s)
        began = time.monotonic()
        try:
            removed = await asyncio.to_thread(collector.collect, retention_s)
        except (CloisterError, OSError):  # task border: the next round tries again
            _log.exception("store.not_collected")
        else:
            if removed:
                mib, seconds = sum(one.size_bytes for one in removed) >> 20, round(time.monotonic() - began, 3)
                _log.info("store.collected", removed=[f"{one.kind} {one.name}" for one in removed], mib=mib, seconds=seconds)
