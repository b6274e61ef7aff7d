"""Threads for the making of sandboxes, so that one template cannot hold up another.

Whoever builds a template decides how long its sandboxes take to be made, up to the bounds of each step: its code runs in its zygote, and
could stop what a creation waits for. Sandboxes of stock templates are made by threads of their own, and each zone's by a few of the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from weakref import WeakValueDictionary

__all__ = ["Lanes"]

_T = TypeVar("_T")
_STOCK = 16
_EACH = 8
_ALL = 120
"""Of clients' templates: a lane for each of the 15 zones that a node has."""


class Lanes:
    """Event loop only."""

    def __init__(self) -> None:
        self._stock = ThreadPoolExecutor(_STOCK, thread_name_prefix="maker")
        self._clients = ThreadPoolExecutor(_ALL, thread_name_prefix="guest")
        self._places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def run(self, zone_key: str | None, work: Callable[[], _T]) -> _T:
        """The result of ``work`` in a thread; ``zone_key`` None: for a stock template."""
        loop = asyncio.get_running_loop()
        if zone_key is None:
            return await loop.run_in_executor(self._stock, work)
        place = self._places.get(zone_key)
        if place is None:
            place = self._places[zone_key] = asyncio.Semaphore(_EACH)
        async with place:
            return await loop.run_in_executor(self._clients, work)

    def close(self) -> None:
        """Wait for what is being made."""
        self._stock.shutdown(wait=True)
        self._clients.shutdown(wait=True)
