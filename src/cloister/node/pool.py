"""Sandboxes made ahead: a creation takes one that is up already, and another is made when nobody waits.

Owns which sandboxes are ready and for whom; making, ending and handing them over is the supervisor's. Event loop only. A ready sandbox has
run no client's code and knows no client's secret, though what its template starts runs in it; it becomes a client's by :meth:`Pool.claim`,
once. Invariant I8: in the journal it is a creation under way, so that a supervisor that starts after a crash ends it.

::

    prepare ──> make ──> started ──> ready ──reserve──> reserved ──claim──> a client's
                                      ^                    |
                                      └ not claimed within RESERVED_S

A template is *wanted* while it is one of those always wanted, or among the few that were asked for last and not too long ago. What is
ready of one that is wanted no more is ended, so that its zone can be given back. Only the making itself is done one at a time: a template
whose start takes long, or never succeeds, holds up no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from cloister.errors import CloisterError, TemplateNotFoundError
from cloister.model.sandbox import SandboxRecord
from cloister.runtime.base import RuntimeSandbox

__all__ = ["HOT_S", "RESERVED_S", "Pool", "PoolSize", "PoolSource", "Pooled"]

_log = structlog.get_logger("cloister.node.pool")
RESERVED_S = 15.0
HOT_S = 600.0
_RETRY_S = (5.0, 15.0, 60.0, 300.0)
_IDLE_POLL_S = 0.05
_QUIET_S = 0.1
"""How long the machine is left to a client that has just got its sandbox."""
_TURN_S = 2.0
"""How long one that is being made keeps others from being made: whoever takes longer waits for something."""
_ROUND_S = 30.0
_MOST_WANTED = 8
"""Templates wanted beside those that always are: each holds a zone, of which a node has 15."""


@dataclass
class Pooled:
    """A ready sandbox. ``build_id`` is the build of its template: a newer build makes it useless."""

    record: SandboxRecord
    sandbox: RuntimeSandbox
    build_id: str
    reserved_at: float | None = None
    key: str = ""
    """By which its template was asked for; set by the pool."""

    def is_free(self) -> bool:
        """Whether nobody has it reserved."""
        return self.reserved_at is None or time.monotonic() - self.reserved_at > RESERVED_S


@dataclass(frozen=True)
class PoolSize:
    """How many sandboxes of one template are ready at most, and the keys of the templates that are never without."""

    each: int
    always: tuple[str, ...] = ()


async def _nothing(_pooled_or_key: object) -> None:
    """No preparation, no start."""


@dataclass(frozen=True, kw_only=True)
class PoolSource:
    """Where sandboxes come from and go to. ``prepare``, ``make`` and ``started`` may raise CloisterError and OSError."""

    make: Callable[[str], Awaitable[Pooled]]
    """One of the template that the key names, whose agent serves."""
    end: Callable[[Pooled], Awaitable[None]]
    is_busy: Callable[[], bool]
    prepare: Callable[[str], Awaitable[None]] = _nothing
    """What makes the making quick; may take long."""
    started: Callable[[Pooled], Awaitable[None]] = _nothing
    """Until what the template starts is up; nothing is left of the sandbox when it raises."""


@dataclass
class _Wanted:
    asked_at: float
    retry_at: float = 0.0
    failures: int = 0


class Pool:
    """Ready sandboxes of each template that is always wanted or was asked for of late."""

    def __init__(self, size: PoolSize, source: PoolSource) -> None:
        self._size = size
        self._source = source
        self._ready: dict[str, Pooled] = {}
        self._wanted = {key: _Wanted(0.0) for key in size.always}
        self._filling: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()
        self._stale: list[Pooled] = []
        self._wake = asyncio.Event()
        self._wake.set()
        self._news = asyncio.Condition()

    def ids(self) -> set[str]:
        """The ids of all that it holds."""
        return {*self._ready, *(pooled.record.sandbox_id for pooled in self._stale)}

    def reserve(self, key: str, build_id: str) -> str | None:
        """The id of a ready sandbox, kept for the caller for a while; None when there is none."""
        self.want(key)
        for sandbox_id, pooled in tuple(self._ready.items()):
            if pooled.key != key or not pooled.is_free():
                continue
            if pooled.build_id == build_id:
                pooled.reserved_at = time.monotonic()
                return sandbox_id
            self._stale.append(self._ready.pop(sandbox_id))
        return None

    def want(self, key: str) -> None:
        """A template is asked for: have some ready from now on, for a while."""
        wanted = self._wanted.setdefault(key, _Wanted(0.0))
        wanted.asked_at = time.monotonic()
        self._wake.set()

    async def fill(self, key: str, timeout_s: float) -> bool:
        """Have a template ready: whether one of it is, in time. False at once when it cannot be made now, or none is to be."""
        self.want(key)
        if not self._size.each:
            return False
        failures = self._wanted[key].failures
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._news:
                await self._news.wait_for(lambda: self._count(key) or key not in self._wanted or self._wanted[key].failures > failures)
        return bool(self._count(key))

    def claim(self, sandbox_id: str) -> Pooled | None:
        """Take a sandbox out of the pool for good; None when it is not there (it died, or was never in it)."""
        self._wake.set()
        return self._ready.pop(sandbox_id, None)

    def give_way(self, but: str) -> list[Pooled]:
        """Take out all that is free of the template asked for longest ago, for another to have its zone; the caller ends them.

        That template has to be asked for again before any of it is made; one that is always wanted comes last, and waits a while.
        """
        found = {pooled.key for pooled in self._ready.values() if pooled.is_free() and pooled.key != but}
        if not found:
            return []
        key = min(found, key=lambda key: (key in self._size.always, self._wanted[key].asked_at if key in self._wanted else 0.0))
        self._forget(key)
        taken = [pooled for pooled in self._ready.values() if pooled.key == key and pooled.is_free()]
        for pooled in taken:
            del self._ready[pooled.record.sandbox_id]
        return taken

    def drop(self, build_id: str) -> None:
        """A build is no more: end what is ready of it, but for what somebody has reserved, and make none any more."""
        if build_id not in self._size.always:
            self._wanted.pop(build_id, None)
            if (filling := self._filling.get(build_id)) is not None:
                filling.cancel()
        for sandbox_id, pooled in tuple(self._ready.items()):
            if pooled.build_id == build_id and pooled.is_free():
                self._stale.append(self._ready.pop(sandbox_id))
        self._wake.set()

    async def run(self) -> None:
        """Keep the pool full until cancelled."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s()):
                        await self._wake.wait()
                await asyncio.sleep(_QUIET_S)
                self._wake.clear()
                keys = self._keys()
                self._cool(set(keys))
                while self._stale:
                    await self._source.end(self._stale.pop())
                for key in keys:
                    if key not in self._filling and self._is_missing(key) and time.monotonic() >= self._wanted[key].retry_at:
                        self._filling[key] = asyncio.create_task(self._fill(key))
        finally:
            for task in self._filling.values():
                task.cancel()
            await asyncio.gather(*self._filling.values(), return_exceptions=True)

    async def drain(self) -> None:
        """End all that nobody took."""
        left = [*self._ready.values(), *self._stale]
        self._ready, self._stale = {}, []
        await asyncio.gather(*(self._source.end(pooled) for pooled in left))

    # ---- filling ----

    async def _fill(self, key: str) -> None:
        """Make one after another until there are enough."""
        try:
            await self._source.prepare(key)
            while self._is_missing(key):
                await self._add(key)
        except TemplateNotFoundError:  # it was dropped
            self._wanted.pop(key, None)
        except (CloisterError, OSError) as error:
            self._put_off(key, error)
        finally:
            del self._filling[key]
            self._wake.set()
            async with self._news:
                self._news.notify_all()

    async def _add(self, key: str) -> None:
        async with self._turn:
            while self._source.is_busy():  # noqa: ASYNC110 - creations come and go in bursts: an event for each would wake this for nothing
                await asyncio.sleep(_IDLE_POLL_S)
            if not self._is_missing(key):
                return
            making = asyncio.ensure_future(self._source.make(key))
            try:
                await asyncio.wait({making}, timeout=_TURN_S)
            except asyncio.CancelledError:
                await self._give_up(making)
                raise
        try:
            pooled = await asyncio.shield(making)
        except asyncio.CancelledError:
            await self._give_up(making)
            raise
        pooled.key = key
        await self._source.started(pooled)
        self._ready[pooled.record.sandbox_id] = pooled
        if key in self._wanted:
            self._wanted[key].failures = 0
        async with self._news:
            self._news.notify_all()

    async def _give_up(self, making: asyncio.Future[Pooled]) -> None:
        """Cut it off; what is made all the same is ended, also when this is cancelled too."""

        def take(made: asyncio.Future[Pooled]) -> None:
            if not made.cancelled() and made.exception() is None:
                self._stale.append(made.result())
                self._wake.set()

        making.add_done_callback(take)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)

    def _put_off(self, key: str, error: Exception) -> None:
        wanted = self._wanted.get(key)
        if wanted is None:
            return
        again_in_s = _RETRY_S[min(wanted.failures, len(_RETRY_S) - 1)]
        wanted.failures += 1
        wanted.retry_at = time.monotonic() + again_in_s
        _log.warning("pool.not_filled", template=key, error=str(error), again_in_s=again_in_s)

    # ---- who is wanted ----

    def _keys(self) -> list[str]:
        """Those that are always wanted, then the ones asked for last."""
        now = time.monotonic()
        others = [key for key, wanted in self._wanted.items() if key not in self._size.always and now - wanted.asked_at < HOT_S]
        others.sort(key=lambda key: -self._wanted[key].asked_at)
        return [*(key for key in self._size.always if key in self._wanted), *others[:_MOST_WANTED]]

    def _cool(self, wanted: set[str]) -> None:
        for key in [key for key in self._wanted if key not in wanted and key not in self._filling]:
            del self._wanted[key]
        for sandbox_id, pooled in tuple(self._ready.items()):
            if pooled.key not in wanted and pooled.is_free():
                self._stale.append(self._ready.pop(sandbox_id))

    def _forget(self, key: str) -> None:
        if key in self._size.always:
            self._wanted[key].retry_at = time.monotonic() + _ROUND_S
        else:
            self._wanted.pop(key, None)

    def _is_missing(self, key: str) -> bool:
        return key in self._wanted and self._count(key) < self._size.each

    def _count(self, key: str) -> int:
        return sum(pooled.key == key for pooled in self._ready.values())

    def _pause_s(self) -> float:
        now = time.monotonic()
        waits = [wanted.retry_at - now for wanted in self._wanted.values() if wanted.retry_at > now]
        return min([_ROUND_S, *waits])
