"""Background work of the node's event loop: worker threads for blocking calls, and tasks that a stop cancels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import structlog

__all__ = ["BackgroundTasks", "WorkerThreads"]

_log = structlog.get_logger("cloister.node")
_T = TypeVar("_T")
_RESTART_S = 1.0


class WorkerThreads:
    """A bounded number of threads for calls that block."""

    def __init__(self, count: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, work: Callable[[], _T]) -> _T:
        """The result of ``work``, which runs in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self, *, cancel_waiting: bool = False) -> None:
        """Wait for the work under way; with ``cancel_waiting`` drop the work that has not begun."""
        self._executor.shutdown(wait=True, cancel_futures=cancel_waiting)


class BackgroundTasks:
    """Tasks that run beside the requests. Event loop only."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` until it ends or :meth:`stop` cancels it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def run_forever(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a loop that never ends, and start it again after an unexpected fault: without it sandboxes are not bounded."""
        self.spawn(_restart(run))

    def cancel(self) -> None:
        """Cancel all tasks."""
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _restart(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        try:
            await run()
        except Exception:  # noqa: BLE001 - task border
            _log.exception("task.failed", task=getattr(run, "__qualname__", repr(run)))
        await asyncio.sleep(_RESTART_S)
