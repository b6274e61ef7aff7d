"""Thread pools for creations, divided so that one template cannot hold up another.

A client's template runs code in its own zone and can stop the processes that a creation waits for. A creation may therefore block its
thread for as long as the time limits of its steps allow. Each kind of work has threads of its own:

::

    make       stock templates        16 threads
               clients' templates     160 threads, at most 8 for each compartment: one team in one zone
    finish     16 threads             ends of creations: outcomes of start commands, discarded sandboxes
    prepare    32 threads             zygotes; more threads than zones, because a template's own Python may take all its time
    read       4 threads              records of the template store; no template's code runs there

Event loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from weakref import WeakValueDictionary

__all__ = ["Bulkheads", "Compartment"]

_T = TypeVar("_T")
Compartment = tuple[str, str]
"""The key of a zone, and a team."""
_STOCK_THREADS = 16
_CLIENT_THREADS = 160
"""Eight for each of the 15 zones of a node, and some for further teams that share a zone."""
_COMPARTMENT_THREADS = 8
_FINISH_THREADS = 16
_PREPARE_THREADS = 32
_READ_THREADS = 4


class Bulkheads:
    """The threads of one node's creations."""

    def __init__(self) -> None:
        self._stock = ThreadPoolExecutor(_STOCK_THREADS, thread_name_prefix="make-stock")
        self._clients = ThreadPoolExecutor(_CLIENT_THREADS, thread_name_prefix="make-client")
        self._finishers = ThreadPoolExecutor(_FINISH_THREADS, thread_name_prefix="finish")
        self._preparers = ThreadPoolExecutor(_PREPARE_THREADS, thread_name_prefix="prepare")
        self._readers = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="read-store")
        self._compartments: WeakValueDictionary[Compartment, asyncio.Semaphore] = WeakValueDictionary()

    async def make(self, compartment: Compartment | None, work: Callable[[], _T]) -> _T:
        """Make a sandbox. ``compartment`` is None for a stock template."""
        if compartment is None:
            return await _run(self._stock, work)
        places = self._compartments.get(compartment)
        if places is None:
            places = self._compartments[compartment] = asyncio.Semaphore(_COMPARTMENT_THREADS)
        async with places:
            return await _run(self._clients, work)

    async def finish(self, work: Callable[[], _T]) -> _T:
        """Take the outcome of a start command, or discard a sandbox."""
        return await _run(self._finishers, work)

    async def prepare(self, work: Callable[[], _T]) -> _T:
        """Prepare a template's zone and zygotes."""
        return await _run(self._preparers, work)

    async def read(self, work: Callable[[], _T]) -> _T:
        """Read the template store."""
        return await _run(self._readers, work)

    def close(self) -> None:
        """Wait for the threads, but not for templates that are still being prepared."""
        self._preparers.shutdown(wait=False, cancel_futures=True)
        for executor in (self._readers, self._stock, self._clients, self._finishers):
            executor.shutdown(wait=True)


async def _run(executor: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(executor, work)
