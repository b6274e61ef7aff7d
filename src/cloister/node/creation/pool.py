"""The pool of sandboxes made ahead. A creation takes one that is ready, and the pool makes another when no client waits.

Owns which sandboxes are ready, and for which template and team. A :class:`SandboxSource` makes and ends them. Event loop only.

A ready sandbox has run no client's code and knows no client's secret, but its template's start command runs in it. It becomes a
client's sandbox by :meth:`Pool.claim`, once. Invariant I8: the journal has a ready sandbox as a creation under way, so a supervisor that
starts after a crash ends it.

::

    prepare ──> make ──> wait for its start ──> ready ──reserve──> reserved ──claim──> a client's
                                                  ^                    |
                                                  └ not claimed within RESERVED_S

The pool keeps sandboxes of *hot* templates: those that are always hot, and the few that clients asked for last and not too long ago. It
ends the ready sandboxes of a template that cools, so that the template's zone becomes free. It makes one sandbox at a time. It waits for
start commands without that limit, so a template that starts slowly, or never, holds up no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Protocol

import structlog

from cloister.errors import CloisterError, TemplateNotFoundError
from cloister.model.sandbox import SandboxRecord
from cloister.runtime.base import RuntimeSandbox

__all__ = ["HOT_S", "RESERVED_S", "Pool", "PoolKey", "PoolSize", "ReadySandbox", "SandboxSource"]

_log = structlog.get_logger("cloister.node.pool")
RESERVED_S = 15.0
HOT_S = 600.0
_RETRY_S = (5.0, 15.0, 60.0, 300.0)
_IDLE_POLL_S = 0.05
_QUIET_S = 0.1
"""How long the pool leaves the machine to a client that has just got its sandbox."""
_TURN_S = 2.0
"""How long one sandbox in the making keeps others from being made; one that takes longer waits for something."""
_ROUND_S = 30.0
_MAX_HOT = 8
"""Hot templates beside those that always are: each holds a zone, of which a node has 15."""


@dataclass(frozen=True)
class PoolKey:
    """Ready sandboxes of one key are interchangeable. ``template`` is as clients name it.

    With ``team_id`` they are in a zone of that team and for it alone. Without it any team may get them.
    """

    template: str
    team_id: str = ""


@dataclass(kw_only=True)
class ReadySandbox:
    """A sandbox that was made ahead."""

    key: PoolKey
    build_id: str
    """The build of its template; a newer build makes the sandbox useless."""
    zone_key: str
    record: SandboxRecord
    sandbox: RuntimeSandbox
    reserved_at: float | None = None

    @property
    def sandbox_id(self) -> str:
        """Its id, which the creation that reserves it gets."""
        return self.record.sandbox_id

    def is_free(self) -> bool:
        """Whether no creation has reserved it."""
        return self.reserved_at is None or time.monotonic() - self.reserved_at > RESERVED_S


@dataclass(frozen=True)
class PoolSize:
    """How many sandboxes of one key are ready at most, and the templates that are always hot, for any team."""

    each: int
    always: tuple[str, ...] = ()


class SandboxSource(Protocol):
    """Makes and ends the sandboxes of a pool. :class:`cloister.node.creation.creator.Creator` is one."""

    async def prepare(self, key: PoolKey) -> None:
        """Prepare what makes the next step quick; may take long. Raises: CloisterError, OSError."""

    async def make_ahead(self, key: PoolKey) -> ReadySandbox:
        """Make one whose agent serves. Raises: CloisterError, OSError; no sandbox is left then."""

    async def wait_ready(self, ready: ReadySandbox) -> None:
        """Wait until its start command is up. Raises: CloisterError, OSError; no sandbox is left then."""

    async def discard_ready(self, ready: ReadySandbox) -> None:
        """End one that no client got."""

    def is_busy(self) -> bool:
        """Whether clients' creations need the processors now."""


@dataclass
class _Demand:
    asked_at: float = 0.0
    retry_at: float = 0.0
    failures: int = 0


class Pool:
    """Ready sandboxes of each hot key."""

    def __init__(self, size: PoolSize, source: SandboxSource) -> None:
        self._size = size
        self._always = {PoolKey(template) for template in size.always}
        self._source = source
        self._ready: dict[str, ReadySandbox] = {}
        self._hot = {key: _Demand() for key in self._always}
        self._filling: dict[PoolKey, asyncio.Task[None]] = {}
        self._making = asyncio.Lock()
        self._stale: list[ReadySandbox] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._wake.set()
        self._changed = asyncio.Condition()

    # ---- for creations ----

    def reserve(self, key: PoolKey, build_id: str) -> str | None:
        """The id of a ready sandbox, kept for the caller for :data:`RESERVED_S`. None: there is none."""
        self.heat(key)
        for ready in tuple(self._ready.values()):
            if ready.key != key or not ready.is_free():
                continue
            if ready.build_id == build_id:
                ready.reserved_at = time.monotonic()
                return ready.sandbox_id
            self._stale.append(self._take_out(ready))
        return None

    def claim(self, sandbox_id: str) -> ReadySandbox | None:
        """Take a sandbox out of the pool for good. None: it is not there.

        It may be dead, or of an older build, if the pool has not ended it yet: else the pool would end it while its id is used anew.
        """
        self._wake.set()
        if (ready := self._ready.get(sandbox_id)) is not None:
            return self._take_out(ready)
        stale = next((ready for ready in self._stale if ready.sandbox_id == sandbox_id), None)
        if stale is not None:
            self._stale.remove(stale)
        return stale

    def heat(self, key: PoolKey) -> None:
        """A client asks for the template: keep it hot for a while."""
        self._hot.setdefault(key, _Demand()).asked_at = time.monotonic()
        self._wake.set()

    async def wait_filled(self, key: PoolKey, timeout_s: float) -> bool:
        """Heat a key and wait for its first sandbox. False: there is none in time, or making it failed, or the pool keeps none."""
        self.heat(key)
        if not self._size.each:
            return False
        failures = self._hot[key].failures
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self._count(key) or key not in self._hot or self._hot[key].failures > failures)
        return bool(self._count(key))

    def evict_coldest(self, keep: PoolKey) -> list[ReadySandbox]:
        """Take out the free sandboxes of the template that was asked for longest ago, so that another can have its zone.

        The caller discards them. The pool makes none of that template until a client asks for it again. A template that is always
        hot is evicted last, and only for :data:`_ROUND_S`.
        """
        found = {ready.key for ready in self._ready.values() if ready.is_free() and ready.key != keep}
        if not found:
            return []
        key = min(found, key=lambda key: (key in self._always, self._hot[key].asked_at if key in self._hot else 0.0))
        if key not in self._always:
            self._hot.pop(key, None)
        elif key in self._hot:  # else its template was not found, and the next round ends these sandboxes
            self._hot[key].retry_at = time.monotonic() + _ROUND_S
        return [self._take_out(ready) for ready in tuple(self._ready.values()) if ready.key == key and ready.is_free()]

    def drop_build(self, build_id: str) -> None:
        """A build was dropped: end its free sandboxes and make no more of them."""
        for key in [key for key in self._hot if key.template == build_id and key not in self._always]:
            del self._hot[key]
        for key, filling in self._filling.items():
            if key.template == build_id and key not in self._always:
                filling.cancel()
        for ready in tuple(self._ready.values()):
            if ready.build_id == build_id and ready.is_free():
                self._stale.append(self._take_out(ready))
        self._wake.set()

    # ---- filling ----

    async def run(self) -> None:
        """Keep the pool full until cancelled."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s()):
                        await self._wake.wait()
                await asyncio.sleep(_QUIET_S)
                self._wake.clear()
                keys = self._hottest()
                self._cool_others(set(keys))
                self._end_stale()
                for key in keys:
                    if key not in self._filling and self._is_missing(key) and time.monotonic() >= self._hot[key].retry_at:
                        self._filling[key] = asyncio.create_task(self._fill(key))
        finally:
            for task in self._filling.values():
                task.cancel()
            await asyncio.gather(*self._filling.values(), return_exceptions=True)

    async def drain(self) -> None:
        """End every sandbox that no client took. After :meth:`run`."""
        self._stale += [self._take_out(ready) for ready in tuple(self._ready.values())]
        self._end_stale()
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _fill(self, key: PoolKey) -> None:
        """Make one after another until there are enough."""
        try:
            await self._source.prepare(key)
            while self._is_missing(key):
                await self._add(key)
        except TemplateNotFoundError:  # it was dropped
            self._hot.pop(key, None)
        except (CloisterError, OSError) as error:
            self._back_off(key, error)
        finally:
            del self._filling[key]
            self._wake.set()
            async with self._changed:
                self._changed.notify_all()

    async def _add(self, key: PoolKey) -> None:
        async with self._making:
            while self._source.is_busy():  # noqa: ASYNC110 - creations come in bursts: an event for each would wake this for nothing
                await asyncio.sleep(_IDLE_POLL_S)
            if not self._is_missing(key):
                return
            making = asyncio.ensure_future(self._source.make_ahead(key))
            try:
                await asyncio.wait({making}, timeout=_TURN_S)
            except asyncio.CancelledError:
                await self._give_up(making)
                raise
        try:
            ready = await asyncio.shield(making)
        except asyncio.CancelledError:
            await self._give_up(making)
            raise
        await self._source.wait_ready(ready)
        self._put_in(ready)
        if key in self._hot:
            self._hot[key].failures = 0
        async with self._changed:
            self._changed.notify_all()

    async def _give_up(self, making: asyncio.Future[ReadySandbox]) -> None:
        """Cancel a making. A sandbox that comes of it all the same is ended, also when this wait is cancelled too."""

        def end(made: asyncio.Future[ReadySandbox]) -> None:
            if not made.cancelled() and made.exception() is None:
                self._stale.append(made.result())
                self._wake.set()

        making.add_done_callback(end)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)

    def _back_off(self, key: PoolKey, error: Exception) -> None:
        demand = self._hot.get(key)
        if demand is None:
            return
        again_in_s = _RETRY_S[min(demand.failures, len(_RETRY_S) - 1)]
        demand.failures += 1
        demand.retry_at = time.monotonic() + again_in_s
        _log.warning("pool.not_filled", template=key.template, error=str(error), again_in_s=again_in_s)

    # ---- ending ----

    def _end_stale(self) -> None:
        """End them without waiting: one whose processes do not die keeps no other waiting."""
        while self._stale:
            task = asyncio.create_task(self._source.discard_ready(self._stale.pop()))
            self._ending.add(task)
            task.add_done_callback(self._on_ended)

    def _on_ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:  # the sweep ends what is left of it
            _log.warning("pool.not_ended", error=str(error))

    # ---- which are in it ----

    def _put_in(self, ready: ReadySandbox) -> None:
        self._ready[ready.sandbox_id] = ready
        asyncio.get_running_loop().add_reader(ready.sandbox.pidfd, self._on_death, ready)

    def _take_out(self, ready: ReadySandbox) -> ReadySandbox:
        asyncio.get_running_loop().remove_reader(ready.sandbox.pidfd)
        return self._ready.pop(ready.sandbox_id)

    def _on_death(self, ready: ReadySandbox) -> None:
        self._stale.append(self._take_out(ready))
        self._wake.set()

    def counts(self) -> dict[str, int]:
        """Sandboxes that are ``ready``, and how many are ``wanted`` for the templates that are hot now."""
        return {"ready": len(self._ready), "wanted": self._size.each * len(self._hot)}

    # ---- which are hot ----

    def _hottest(self) -> list[PoolKey]:
        """Those that always are, then the ones that clients asked for last."""
        now = time.monotonic()
        others = [key for key, demand in self._hot.items() if key not in self._always and now - demand.asked_at < HOT_S]
        others.sort(key=lambda key: -self._hot[key].asked_at)
        return [*(key for key in self._always if key in self._hot), *others[:_MAX_HOT]]

    def _cool_others(self, hottest: set[PoolKey]) -> None:
        for key in [key for key in self._hot if key not in hottest and key not in self._filling]:
            del self._hot[key]
        for ready in tuple(self._ready.values()):
            if ready.key not in hottest and ready.is_free():
                self._stale.append(self._take_out(ready))

    def _is_missing(self, key: PoolKey) -> bool:
        return key in self._hot and self._count(key) < self._size.each

    def _count(self, key: PoolKey) -> int:
        return sum(ready.key == key for ready in self._ready.values())

    def _pause_s(self) -> float:
        now = time.monotonic()
        waits = [demand.retry_at - now for demand in self._hot.values() if demand.retry_at > now]
        return min([_ROUND_S, *waits])
