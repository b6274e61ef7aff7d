"""The node supervisor: starts, keeps running and stops the parts that look after the sandboxes of one machine.

Owns the order of a start and of a stop, and the loops in between. ``creation/`` creates the sandboxes, ``live.py`` holds them, and
``adoption.py`` adopts them after a restart. Invariant I8: a start adopts the live ones before it sweeps the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from cloister.node.adoption import Adoption
from cloister.node.background import BackgroundTasks, WorkerThreads
from cloister.node.creation.creator import Creator
from cloister.node.live import LiveSandboxes
from cloister.node.pausing import Pausing
from cloister.node.snapshot_queue import SnapshotQueue
from cloister.node.sweeper import Sweeper

__all__ = ["Supervisor"]

_log = structlog.get_logger("cloister.node")


class Supervisor:
    """Starts and stops the parts of a node. The node protocol is served between :meth:`start` and :meth:`stop`."""

    def __init__(
        self,
        *,
        adoption: Adoption,
        sweeper: Sweeper,
        guards: Sequence[Callable[[], Coroutine[Any, Any, None]]],
        creator: Creator,
        live: LiveSandboxes,
        pausing: Pausing,
        snapshots: SnapshotQueue,
        threads: WorkerThreads,
    ) -> None:
        """``guards`` are loops that bound or measure sandboxes. They never end by themselves."""
        self._adoption = adoption
        self._sweeper = sweeper
        self._guards = guards
        self._creator = creator
        self._live = live
        self._pausing = pausing
        self._snapshots = snapshots
        self._threads = threads
        self._tasks = BackgroundTasks()

    async def start(self) -> None:
        """Adopt what lived through a restart, remove what did not, and start the loops. Raises: UnusableStateError."""
        await self._adoption.run()
        removed = await self._sweeper.sweep()
        _log.info("node.started", adopted=len(self._live.records()), removed=removed)
        for run in (self._sweeper.run, *self._guards):
            self._tasks.run_forever(run)
        self._creator.run()

    async def stop(self, *, keep_sandboxes: bool) -> None:
        """Stop the loops, give up creations under way, and end every sandbox unless they are to live on without a supervisor."""
        self._live.stop_timers()
        await self._pausing.stop()
        await self._tasks.stop()
        await self._creator.stop()
        await self._live.stop(keep_sandboxes=keep_sandboxes)
        self._creator.close()
        self._snapshots.close()
        self._live.close()
        self._threads.close()
