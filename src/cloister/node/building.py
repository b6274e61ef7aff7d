"""Builds as the node protocol asks for them: the event loop's side of node/builds.py.

Owns the threads in which the queue's blocking calls run. Builds of an earlier run of the server are known at once, but nothing is built
before :meth:`Building.begin_after`: the sandboxes' resolver is served by the api process, and a step without it would fail for no fault of
its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from cloister.model.build import BuildReport, BuildRequest, EndedBuild
from cloister.node.builds import Builds
from cloister.node.ceiling import Ceiling

__all__ = ["Building"]

_T = TypeVar("_T")
_WORKERS = 4
_PATIENCE_S = 15.0
_TEND_INTERVAL_S = 60.0


class Building:
    """Implements :class:`cloister.node.server.BuildService`."""

    def __init__(self, builds: Builds, ceiling: Ceiling) -> None:
        self._builds = builds
        self._ceiling = ceiling
        self.on_ended: Callable[[EndedBuild], Coroutine[Any, Any, None]] | None = None
        """Called on the event loop when a build has ended."""
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="building")
        self._telling: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Learn of what an earlier run of the server left. Call it before the protocol is served."""
        loop = asyncio.get_running_loop()

        def tell(ended: EndedBuild) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone: whoever connects next asks for the report
                loop.call_soon_threadsafe(self._tell, ended)

        self._builds.on_ended = tell
        await self._in_thread(self._builds.load)

    async def begin_after(self, is_ready: asyncio.Event) -> None:
        """Build once ``is_ready``, or when that takes too long; then forget what is old, every now and then, until cancelled."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await is_ready.wait()
        await self._in_thread(self._builds.begin)
        while True:
            await asyncio.sleep(_TEND_INTERVAL_S)
            await self._in_thread(self._builds.tend)

    async def stop(self) -> None:
        """Put what runs back for the next start."""
        await self._in_thread(self._builds.stop)
        await asyncio.gather(*self._telling, return_exceptions=True)
        self._workers.shutdown(wait=False, cancel_futures=True)

    def counts(self) -> dict[str, int]:
        """See :class:`Builds`."""
        return self._builds.counts()

    async def start_build(self, request: BuildRequest) -> None:
        """See :class:`BuildService`."""
        self._ceiling.check(request)
        await self._in_thread(lambda: self._builds.enqueue(request))

    async def report_build(self, build_id: str, offset: int, limit: int) -> BuildReport:
        """See :class:`BuildService`."""
        return await self._in_thread(lambda: self._builds.report(build_id, offset, limit))

    async def cancel_build(self, build_id: str) -> bool:
        """See :class:`BuildService`."""
        return await self._in_thread(lambda: self._builds.cancel(build_id))

    async def drop_build(self, build_id: str) -> None:
        """See :class:`BuildService`."""
        await self._in_thread(lambda: self._builds.drop(build_id))

    def _tell(self, ended: EndedBuild) -> None:
        if self.on_ended is None:
            return
        task = asyncio.create_task(self.on_ended(ended))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)
