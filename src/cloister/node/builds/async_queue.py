"""The event loop's side of the build queue, for the node protocol.

Owns the threads that run the queue's blocking calls. :meth:`AsyncBuildQueue.load` reads the builds of an earlier run of the server. None of
them starts before :meth:`AsyncBuildQueue.begin_after`: the api process serves the sandboxes' resolver, and a step that cannot look up names
would fail through no fault of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cloister.model.build import BuildReport, BuildRequest, EndedBuild
from cloister.node.builds.queue import BuildQueue
from cloister.node.events import BuildEvents
from cloister.node.limits import NodeLimits
from cloister.nodewire.requests import BuildRef, ReportBuild

__all__ = ["AsyncBuildQueue"]

_T = TypeVar("_T")
_WORKERS = 4
_MAX_WAIT_S = 15.0
_TEND_INTERVAL_S = 60.0


class AsyncBuildQueue:
    """Implements :class:`~cloister.nodewire.methods.BuildMethods`."""

    def __init__(self, queue: BuildQueue, limits: NodeLimits, events: BuildEvents) -> None:
        self._queue = queue
        self._limits = limits
        self._events = events
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="building")

    async def load(self) -> None:
        """Read the builds of an earlier run of the server. To be called before the node protocol is served."""
        loop = asyncio.get_running_loop()

        def tell(ended: EndedBuild) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the next peer to connect asks for the report
                loop.call_soon_threadsafe(self._events.build_ended, ended)

        self._queue.on_ended = tell
        await self._in_thread(self._queue.load)

    async def begin_after(self, is_ready: asyncio.Event) -> None:
        """Start builds once ``is_ready`` is set, or after a while. Then tend the queue once a minute, until cancelled."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MAX_WAIT_S):
                await is_ready.wait()
        await self._in_thread(self._queue.begin)
        while True:
            await asyncio.sleep(_TEND_INTERVAL_S)
            await self._in_thread(self._queue.tend)

    async def stop(self) -> None:
        """Stop the running builds. The next start of the server runs them again."""
        await self._in_thread(self._queue.stop)
        self._workers.shutdown(wait=False, cancel_futures=True)

    def counts(self) -> dict[str, int]:
        """See :meth:`BuildQueue.counts`."""
        return self._queue.counts()

    async def start_build(self, request: BuildRequest) -> None:
        """See :class:`BuildMethods`."""
        self._limits.check(request)
        await self._in_thread(lambda: self._queue.enqueue(request))

    async def report_build(self, request: ReportBuild) -> BuildReport:
        """See :class:`BuildMethods`."""
        return await self._in_thread(lambda: self._queue.report(request.build_id, request.offset, request.limit))

    async def cancel_build(self, request: BuildRef) -> bool:
        """See :class:`BuildMethods`."""
        return await self._in_thread(lambda: self._queue.cancel(request.build_id))

    async def drop_build(self, request: BuildRef) -> None:
        """See :class:`BuildMethods`."""
        await self._in_thread(lambda: self._queue.drop(request.build_id))

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)
