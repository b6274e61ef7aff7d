"""Sandboxes made ahead: a creation takes one that is up already, and another is made when nobody waits.

Owns which sandboxes are ready and for whom; making, ending and handing them over is the supervisor's. Event loop only. A ready sandbox has
run no client's code and knows no client's secret; it becomes a client's by :meth:`Pool.claim`, once. Invariant I8: in the journal it is a
creation under way, so that a supervisor that starts after a crash ends it.

::

    make ──> ready ──reserve──> reserved ──claim──> a client's
                 ^                  |
                 └── not claimed within RESERVED_S ┘
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from cloister.errors import CloisterError
from cloister.model.sandbox import SandboxRecord
from cloister.runtime.base import RuntimeSandbox

__all__ = ["RESERVED_S", "Pool", "PoolSize", "Pooled"]

_log = structlog.get_logger("cloister.node.pool")
RESERVED_S = 15.0
_HOT_S = 600.0
_RETRY_S = 5.0
_IDLE_POLL_S = 0.05
_QUIET_S = 0.1
"""How long the machine is left to a client that has just got its sandbox."""


@dataclass
class Pooled:
    """A ready sandbox. ``build_id`` is the build of its template: a newer build makes it useless."""

    record: SandboxRecord
    sandbox: RuntimeSandbox
    build_id: str
    reserved_at: float | None = None


@dataclass(frozen=True)
class PoolSize:
    """How many sandboxes of one template are ready at most, and the ids of the templates that are never without."""

    each: int
    always: tuple[str, ...] = ()


class Pool:
    """Ready sandboxes of each template that is always wanted or was asked for of late."""

    def __init__(
        self,
        size: PoolSize,
        *,
        make: Callable[[str], Awaitable[Pooled]],
        end: Callable[[Pooled], Awaitable[None]],
        is_busy: Callable[[], bool],
    ) -> None:
        self._size = size
        self._make = make
        self._end = end
        self._is_busy = is_busy
        self._ready: dict[str, Pooled] = {}
        self._asked_at: dict[str, float] = {}
        self._stale: list[Pooled] = []
        self._wake = asyncio.Event()
        self._wake.set()

    def ids(self) -> set[str]:
        """The ids of all that it holds."""
        return {*self._ready, *(pooled.record.sandbox_id for pooled in self._stale)}

    def reserve(self, template: str, build_id: str) -> str | None:
        """The id of a ready sandbox, kept for the caller for a while; None when there is none."""
        self._asked_at[template] = time.monotonic()
        self._wake.set()
        now = time.monotonic()
        for sandbox_id, pooled in tuple(self._ready.items()):
            is_free = pooled.reserved_at is None or now - pooled.reserved_at > RESERVED_S
            if pooled.record.template != template or not is_free:
                continue
            if pooled.build_id == build_id:
                pooled.reserved_at = now
                return sandbox_id
            self._stale.append(self._ready.pop(sandbox_id))
        return None

    def claim(self, sandbox_id: str) -> Pooled | None:
        """Take a sandbox out of the pool for good; None when it is not there (it died, or was never in it)."""
        self._wake.set()
        return self._ready.pop(sandbox_id, None)

    async def run(self) -> None:
        """Keep the pool full until cancelled. One at a time, and only while a processor is left for it."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(_QUIET_S)
            self._wake.clear()
            while self._stale:
                await self._end(self._stale.pop())
            while (template := self._missing()) is not None:
                while self._is_busy():  # noqa: ASYNC110 - creations come and go in bursts: an event for each would wake this for nothing
                    await asyncio.sleep(_IDLE_POLL_S)
                try:
                    pooled = await self._make(template)
                except (CloisterError, OSError) as error:
                    _log.warning("pool.not_filled", template=template, error=str(error))
                    await asyncio.sleep(_RETRY_S)
                    continue
                self._ready[pooled.record.sandbox_id] = pooled

    async def drain(self) -> None:
        """End all that nobody took."""
        left = [*self._ready.values(), *self._stale]
        self._ready, self._stale = {}, []
        await asyncio.gather(*(self._end(pooled) for pooled in left))

    def _missing(self) -> str | None:
        """A template of which fewer than ``size`` are ready."""
        now = time.monotonic()
        hot = {*self._size.always, *(name for name, asked_at in self._asked_at.items() if now - asked_at < _HOT_S)}
        for template in sorted(hot):
            if sum(pooled.record.template == template for pooled in self._ready.values()) < self._size.each:
                return template
        return None
