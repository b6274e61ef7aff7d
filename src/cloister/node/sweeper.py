"""Removes once a minute what no sandbox owns, and begins the ends that failed anew (I8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from cloister.errors import CloisterError
from cloister.node.background import WorkerThreads
from cloister.node.creation.pool import HOT_S
from cloister.node.host import NodeHost
from cloister.node.live import LiveSandboxes

__all__ = ["Sweeper"]

_log = structlog.get_logger("cloister.node")
_INTERVAL_S = 60.0


class Sweeper:
    """Sweeps the runtimes and what they share, and refreshes the network. Event loop only."""

    def __init__(self, *, host: NodeHost, live: LiveSandboxes, being_created: Callable[[], set[str]], threads: WorkerThreads) -> None:
        """``being_created`` gives the ids of sandboxes that are not live yet. It is called from worker threads."""
        self._host = host
        self._live = live
        self._being_created = being_created
        self._threads = threads

    async def sweep(self) -> list[str]:
        """Remove what belongs to no sandbox; says what was removed. Raises: CloisterError, OSError."""
        return await self._threads.run(lambda: self._host.sweep(self._known))

    async def run(self) -> None:
        """Sweep for ever."""
        removed: list[str] = []
        work: dict[str, Callable[[], object]] = {
            "sweep": lambda: removed.extend(self._host.sweep(self._known)),
            "refresh_network": self._host.network.refresh,
            "let_go": lambda: self._host.runtimes.let_go(HOT_S),
        }
        while True:
            await asyncio.sleep(_INTERVAL_S)
            for name, step in work.items():  # a fault of one step does not stop the others
                try:
                    await self._threads.run(step)
                except (CloisterError, OSError):  # the next round tries again
                    _log.exception("node.sweep_failed", what=name)
            if removed:
                _log.warning("node.swept", removed=list(removed))
                removed.clear()
            self._live.retry_failed_ends()

    def _known(self) -> set[str]:
        """The ids that are no leftovers. Called from worker threads, after the runtime has listed what there is.

        A sandbox moves from being created to live, so the ids of creations are read first.
        """
        creating = self._being_created()
        return creating | self._live.ids()
