"""Waiting on the event loop for what a descriptor says."""

from __future__ import annotations

import asyncio

__all__ = ["readable"]


async def readable(fd: int, timeout_s: float) -> bool:
    """Whether ``fd`` can be read, as soon as it can; False when the time is over. No thread waits."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True
