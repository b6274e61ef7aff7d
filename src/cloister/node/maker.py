"""How sandboxes are made on the event loop: for a request or ahead of one, in which thread, in whose zone, and until what they start is up.

Owns the pool of sandboxes made ahead and the threads that make sandboxes; how one is made is the creator's. Event loop only. Whose
a sandbox is, and how long it lives, is the supervisor's.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import structlog

from cloister.errors import CloisterError, NoCapacityError
from cloister.ids import is_build_id, new_sandbox_id
from cloister.model.sandbox import SandboxRecord, SandboxRequest
from cloister.model.template import Template
from cloister.node.catalog import Catalog
from cloister.node.creation import Creator
from cloister.node.lanes import Lanes
from cloister.node.pool import Pool, Pooled, PoolSize, PoolSource
from cloister.node.waiting import readable
from cloister.runtime.base import RuntimeSandbox

__all__ = ["Maker"]

_log = structlog.get_logger("cloister.node")
_T = TypeVar("_T")
_WORKERS = 16
_PREPARERS = 32
"""Of templates, whose own Python may take all its time to become ready: more than zones, so that none waits for another's."""
_NEW_S = 2.0
"""How long a creation counts as one that needs the processors: one that takes longer waits for something."""
_START_GRACE_S = 10.0
_ROOM_WAIT_S, _ROOM_POLL_S = 3.0, 0.02
_FILL_TIMEOUT_S = 90.0


class Maker:
    """Makes sandboxes, each in its template's zone."""

    def __init__(self, creator: Creator, catalog: Catalog, has_room: Callable[[str], bool], pool: PoolSize) -> None:
        """``has_room`` says whether there is, or can be, a zone of that key."""
        self._creator = creator
        self._catalog = catalog
        self._has_room = has_room
        self._lanes = Lanes()
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="finisher")
        self._preparers = ThreadPoolExecutor(_PREPARERS, thread_name_prefix="preparer")
        self._making: dict[str, float] = {}
        """Of requests, and since when."""
        self._starting: set[asyncio.Task[Any] | None] = set()
        """Who waits for what a template starts in a sandbox of theirs."""
        self._ahead: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clearing: set[asyncio.Task[None]] = set()
        source = PoolSource(
            make=self._make_ahead, end=self._end_pooled, is_busy=self._is_busy, prepare=self._prepare, started=self._start_ahead
        )
        self._pool = Pool(pool, source)
        self.end_made_ahead = self._pool.drop
        """Tells that a build, by its id, was dropped: what was made ahead of it is of no use."""

    def run(self) -> None:
        """Begin to make sandboxes ahead."""
        self._spawn(self._pool.run())

    async def stop(self) -> None:
        """Give up what is being made and end what was made for nobody."""
        tasks = [*self._tasks, *(task for task in self._starting if task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._clearing:
            await asyncio.gather(*self._clearing, return_exceptions=True)
        await self._pool.drain()

    def close(self) -> None:
        """Wait for the threads; once nothing is asked any more."""
        self._preparers.shutdown(wait=False, cancel_futures=True)
        self._lanes.close()
        self._workers.shutdown(wait=True)

    def ids(self) -> set[str]:
        """Of sandboxes for nobody yet, and of those that are just being made. Called from worker threads too."""
        return {*self._ahead, *self._pool.ids()}

    # ---- for a request ----

    def reserve(self, template: str) -> str:
        """The id for a creation that is to follow: of a sandbox that was made ahead, or a new one. Raises: TemplateNotFoundError."""
        found = self._catalog.find(template)
        return self._pool.reserve(_key(template, found), found.build_id) or new_sandbox_id()

    async def create(self, request: SandboxRequest) -> tuple[SandboxRecord, RuntimeSandbox, bool]:
        """A sandbox for the request, and whether it was made ahead. To be awaited by one task for each, which runs to its end.

        Raises: InvalidRequestError, TemplateNotFoundError, NoCapacityError, IsolationError, RuntimeFailedError, StartFailedError.
        """
        pooled = self._pool.claim(request.sandbox_id)
        if pooled is not None:
            asyncio.get_running_loop().remove_reader(pooled.sandbox.pidfd)
        self._making[request.sandbox_id] = time.monotonic()
        try:
            record, sandbox = await self._create_in_a_zone(request, pooled)
        finally:
            del self._making[request.sandbox_id]  # nobody is to wait for a template's own commands
        waiter = asyncio.current_task()
        self._starting.add(waiter)
        try:
            record = await self._wait_started(record, sandbox, runs=True)
        finally:
            self._starting.discard(waiter)
        return record, sandbox, pooled is not None and pooled.sandbox is sandbox

    async def _create_in_a_zone(self, request: SandboxRequest, pooled: Pooled | None) -> tuple[SandboxRecord, RuntimeSandbox]:
        try:
            return await self._make(request.template, lambda: self._creator.create(request, pooled))
        except NoCapacityError:
            if not await self._make_room(request.template):
                raise
        return await self._make(request.template, lambda: self._creator.create(request, None))

    async def _make(self, template: str, work: Callable[[], _T]) -> _T:
        """In a lane of the template's own, unless it is a stock template."""
        return await self._lanes.run(self._catalog.zone_key(self._catalog.find(template)) if is_build_id(template) else None, work)

    async def _make_room(self, template: str) -> bool:
        """Let sandboxes made ahead of other templates go, when they hold the zone that this one needs. Whether that gave it one."""
        found = self._catalog.find(template)
        deadline = time.monotonic() + _ROOM_WAIT_S
        made = False
        while not await self._in_thread(lambda: self._has_room(self._catalog.zone_key(found))):
            given = self._pool.give_way(_key(template, found))
            await asyncio.gather(*(self._end_pooled(pooled) for pooled in given))
            made = made or bool(given)
            if not made or time.monotonic() > deadline:
                return False
            await asyncio.sleep(_ROOM_POLL_S)  # what a sandbox held is given back behind its end
        return made

    async def _wait_started(self, record: SandboxRecord, sandbox: RuntimeSandbox, *, runs: bool) -> SandboxRecord:
        """Until what the template starts is up. Raises: StartFailedError; nothing of the sandbox is left then."""
        if sandbox.starting is None:
            return record
        finishing: asyncio.Task[SandboxRecord] | None = None
        try:
            await readable(sandbox.starting, self._catalog.start_timeout_s + _START_GRACE_S)
            finishing = asyncio.create_task(self._in_thread(lambda: self._creator.finish(record, sandbox, runs=runs)))
            return await asyncio.shield(finishing)
        except asyncio.CancelledError:  # a stop, or the build was dropped
            await self._surely(self._discard_started(record.sandbox_id, sandbox, finishing))
            raise

    async def _discard_started(self, sandbox_id: str, sandbox: RuntimeSandbox, finishing: asyncio.Task[SandboxRecord] | None) -> None:
        try:
            if finishing is not None:
                await finishing
        except (CloisterError, OSError):  # nothing is left of it
            return
        await self._in_thread(lambda: self._creator.discard(sandbox_id, sandbox))

    # ---- ahead of requests ----

    async def warm(self, template: str) -> None:
        """Have a template ready to be used: its prepared processes, and a sandbox made ahead. Not to be had is no fault, only slow.

        Raises: TemplateNotFoundError.
        """
        found = self._catalog.find(template)
        began = time.monotonic()
        try:
            await self._make_room(template)
            await self._prepare(template)
            ready = await self._pool.fill(_key(template, found), _FILL_TIMEOUT_S)
        except (CloisterError, OSError) as error:
            _log.warning("template.not_warm", template=template, error=str(error))
        else:
            _log.info("template.warm", template=template, made_ahead=ready, seconds=round(time.monotonic() - began, 3))

    async def _prepare(self, template: str) -> None:
        await asyncio.get_running_loop().run_in_executor(self._preparers, self._creator.prepare, template)

    async def _make_ahead(self, template: str) -> Pooled:
        sandbox_id = new_sandbox_id()
        self._ahead.add(sandbox_id)
        making = asyncio.create_task(self._make(template, lambda: self._creator.make_ahead(template, sandbox_id)))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:  # a stop, or the build was dropped: what the thread still makes is nobody's
            await self._surely(self._discard_made(sandbox_id, making))
            raise
        except BaseException:
            self._ahead.discard(sandbox_id)
            raise

    async def _discard_made(self, sandbox_id: str, making: asyncio.Task[Pooled]) -> None:
        try:
            pooled = await making
            await self._in_thread(lambda: self._creator.discard(sandbox_id, pooled.sandbox))
        except (CloisterError, OSError):  # it was not made
            pass
        finally:
            self._ahead.discard(sandbox_id)

    async def _start_ahead(self, pooled: Pooled) -> None:
        sandbox_id = pooled.record.sandbox_id
        try:
            await self._wait_started(pooled.record, pooled.sandbox, runs=False)
        finally:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._ahead.discard, sandbox_id)  # not before the pool has it
        loop.add_reader(pooled.sandbox.pidfd, lambda: self._spawn(self._end_pooled(pooled)))

    async def _end_pooled(self, pooled: Pooled) -> None:
        asyncio.get_running_loop().remove_reader(pooled.sandbox.pidfd)
        self._pool.claim(pooled.record.sandbox_id)
        await self._surely(self._in_thread(lambda: self._creator.discard(pooled.record.sandbox_id, pooled.sandbox)))

    def _is_busy(self) -> bool:
        """Whether clients wait for creations on every processor, so that none is left to make one ahead."""
        oldest = time.monotonic() - _NEW_S
        return sum(began > oldest for began in self._making.values()) >= (os.cpu_count() or 1)

    async def _surely(self, work: Coroutine[Any, Any, None]) -> None:
        """To its end, also when who waits for it is cancelled once more."""
        task = asyncio.create_task(work)
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)
        await asyncio.shield(task)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)


def _key(asked: str, found: Template) -> str:
    """By which the pool knows a template: a build asked for by its id stays that one; another name may come to mean a newer build."""
    return found.build_id if asked == found.build_id else found.template_id
