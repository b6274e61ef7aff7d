"""Creates the sandboxes of a node: for clients, ahead of them for the pool, and on the kept disks of paused ones.

The first two go through the same steps.

::

    step                              runs in             undo, when a later step fails
    resolve the template              a reading thread
    admit                             event loop          it counts no more
    claim a ready sandbox             event loop          discard it
      hand it over                    a making thread
    or, without one:                  a making thread
      journal entry "creating"                            remove it
      create in the runtime                               kill, release
      journal entry "running"
    wait for the start command        event loop          discard the sandbox
      journal entry "running"         a finishing thread
    watch it                          event loop          (it is the live sandboxes' now)

A sandbox without a start command is ``running`` before the wait. :mod:`cloister.node.creation.steps` has the steps that block, and
:mod:`cloister.node.creation.bulkheads` the threads. Event loop only, except where said; it reads no file of the store.
Invariant I8: a creation that fails or is cut off leaves nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from cloister.errors import CloisterError, NoCapacityError
from cloister.ids import is_build_id, new_sandbox_id
from cloister.model.durations import CREATION_BOUNDS_S, Durations
from cloister.model.node import CreationTimes
from cloister.model.sandbox import SandboxRecord, SandboxRequest
from cloister.node.catalog import ResolvedTemplate
from cloister.node.creation.admission import Admission
from cloister.node.creation.bulkheads import Bulkheads
from cloister.node.creation.pool import Pool, PoolKey, PoolSize, ReadySandbox
from cloister.node.creation.steps import Created, CreationSteps
from cloister.node.creation.timing import NewestSteps, StepTimes
from cloister.node.live import LiveSandboxes
from cloister.node.recent_templates import RecentTemplates
from cloister.runtime.base import RuntimeSandbox

__all__ = ["Creator"]

_log = structlog.get_logger("cloister.node")
_T = TypeVar("_T")
_BUSY_S = 2.0
"""How long a creation counts as one that needs a processor; one that takes longer waits for something."""
_START_GRACE_S = 10.0
_EVICTION_WAIT_S, _EVICTION_POLL_S = 3.0, 0.02
_FILL_TIMEOUT_S = 90.0
_ENDING_POLL_S = 0.02


class Creator:
    """Creates sandboxes, and is the :class:`cloister.node.creation.pool.SandboxSource` of its pool."""

    def __init__(
        self, steps: CreationSteps, pool_size: PoolSize, *, admission: Admission, live: LiveSandboxes, recent: RecentTemplates
    ) -> None:
        self._steps = steps
        self._admission = admission
        self._live = live
        self._recent = recent
        self._threads = Bulkheads()
        self._pool = Pool(pool_size, self)
        self._pool_task: asyncio.Task[None] | None = None
        self._making: dict[str, float] = {}
        """Sandboxes that are being made for clients, and since when."""
        self._starting: set[asyncio.Task[Any] | None] = set()
        """Creations for clients that wait for a start command."""
        self._unclaimed: set[str] = set()
        """Ids of sandboxes made ahead, from before they exist until a client has them or they are gone."""
        self._undoing: set[asyncio.Task[None]] = set()
        self._counts = Counter[str]()
        self.newest_steps = NewestSteps()
        self._times: dict[tuple[str, str], Durations] = {}
        """By way and kind of template."""

    def run(self) -> None:
        """Begin to fill the pool."""
        self._pool_task = asyncio.create_task(self._pool.run())

    async def stop(self) -> None:
        """Cancel what is made ahead and what waits for a start command, and end the sandboxes that no client has."""
        tasks = [task for task in (self._pool_task, *self._starting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._undoing:
            await asyncio.gather(*self._undoing, return_exceptions=True)
        await self._pool.drain()

    def close(self) -> None:
        """Wait for the threads. After :meth:`stop`."""
        self._threads.close()

    def ids(self) -> set[str]:
        """Ids of sandboxes that are not live yet: they are no leftovers. Called from worker threads too.

        A claimed sandbox was admitted before it was claimed, so the unclaimed ones are read first.
        """
        unclaimed = set(self._unclaimed)
        return unclaimed | self._admission.ids()

    def being_made(self) -> int:
        """The number of sandboxes that are being made for clients."""
        return len(self._admission.ids())

    async def wait_made(self) -> None:
        """Wait until none is being made for a client; each has a time limit."""
        while self.being_made():  # noqa: ASYNC110 - only an operator's drain waits, and admissions have no event
            await asyncio.sleep(_ENDING_POLL_S)

    def counts(self) -> dict[str, int]:
        """Sandboxes created for clients so far: ``made_ahead``, ``forked``, and ``cold`` (at least one process was started by exec)."""
        return dict(self._counts)

    def times(self) -> tuple[CreationTimes, ...]:
        """How long the creations for clients took so far."""
        return tuple(CreationTimes(way=way, kind=kind, times=times.counts()) for (way, kind), times in self._times.items())

    def pool_counts(self) -> dict[str, int]:
        """See :meth:`Pool.counts`."""
        return self._pool.counts()

    # ---- for clients ----

    async def reserve(self, template: str, team_id: str, *, has_volumes: bool = False) -> str:
        """An id for the team's next creation: a ready sandbox's, or a new one. Raises: TemplateNotFoundError, StoreError."""
        found = await self._resolve(template, team_id)
        if found.template.has_memory:
            return new_sandbox_id()  # each goes on from the same memory: none is made ahead
        key = _pool_key(template, found)
        runtime = self._runtime_ahead(key, found)
        if runtime != self._runtime_ahead(PoolKey(key.template, team_id), found) or not self._steps.can_make_ahead(runtime):
            return new_sandbox_id()  # what is made ahead for any team is in another runtime than this team's sandboxes
        if has_volumes and not self._steps.can_mount_later(runtime):
            return new_sandbox_id()
        self._recent.note(template)
        return self._pool.reserve(key, found.build_id) or new_sandbox_id()

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """A running sandbox. A creation that was admitted runs to its end, also when the caller is cancelled.

        Raises: TemplateNotFoundError, AlreadyExistsError, InvalidRequestError, PermissionDeniedError and UnavailableError (its runtime),
        QuotaExceededError, NoCapacityError, IsolationError, RuntimeFailedError, StartFailedError.
        """
        times = StepTimes()
        template = await self._resolve(request.template, request.team_id)
        choose = partial(self._steps.choose_runtime, request, template)
        runtime = await self._threads.read(choose) if template.template.has_memory else choose()
        envs = template.template.envs_for(request.team_id, request.envs)
        request = dataclasses.replace(request, envs=envs, runtime=runtime)
        times.done("resolve the template")
        self._admission.admit(request, (request.limits or template.limits).disk_mib)
        times.done("admit")
        return await asyncio.shield(asyncio.create_task(self._create_admitted(request, template, times)))

    async def _create_admitted(self, request: SandboxRequest, template: ResolvedTemplate, times: StepTimes) -> SandboxRecord:
        began = time.monotonic()
        with self._admission.settling(request.sandbox_id):
            with self._counted_as_busy(request.sandbox_id):
                ready = await self._claim(request.sandbox_id)
                times.done("claim a ready sandbox")
                created = await self._hand_over_or_make(ready, request, template)
                times.done("hand it over" if created.made_ahead else "make it")
            with self._cancelled_at_stop():
                created = await self._wait_started(created)
                times.done("wait for the start command")
            cpu_before_s = created.sandbox.cpu_used_s() if created.made_ahead else 0.0
            self._live.add(created.record, created.sandbox, cpu_before_s=cpu_before_s)
        self.newest_steps.keep(request.sandbox_id, times)
        self._note_created(created, _kind_of(request.template, template), time.monotonic() - began)
        return created.record

    async def _claim(self, sandbox_id: str) -> ReadySandbox | None:
        """Take the ready sandbox of that id out of the pool. None: it is gone, with everything that it held under its id."""
        ready = self._pool.claim(sandbox_id)
        while ready is None and sandbox_id in self._unclaimed:  # it died after it was reserved
            await asyncio.sleep(_ENDING_POLL_S)
            ready = self._pool.claim(sandbox_id)
        self._unclaimed.discard(sandbox_id)
        return ready

    async def _resolve(self, template: str, team_id: str | None) -> ResolvedTemplate:
        return await self._threads.read(partial(self._steps.resolve, template, team_id))

    async def _hand_over_or_make(self, ready: ReadySandbox | None, request: SandboxRequest, template: ResolvedTemplate) -> Created:
        def in_thread() -> Created:
            handed_over = None if ready is None else self._steps.hand_over(ready, request, template)
            return handed_over or self._steps.make(request, template)

        try:
            return await self._make(request, template, in_thread)
        except NoCapacityError:
            if not await self._evict_for(_pool_key(request.template, template), template, request.runtime or ""):
                raise
        return await self._make(request, template, partial(self._steps.make, request, template))

    async def _make(self, request: SandboxRequest, template: ResolvedTemplate, work: Callable[[], _T]) -> _T:
        compartment = (template.zone_key, request.team_id) if is_build_id(request.template) else None
        return await self._threads.make(compartment, work)

    async def start_again(
        self, record: SandboxRecord, on_started: Callable[[dict[str, Any]], None], image: Path | None = None
    ) -> RuntimeSandbox:
        """A sandbox on the disk that is kept of the one that ``record`` describes, with the memory of the ``image`` if there is one.

        ``on_started`` is called in a thread.
        Raises: as :meth:`CreationSteps.origin` and :meth:`CreationSteps.start_again`.
        """
        request, template = await self._threads.read(partial(self._steps.origin, record))
        compartment = None if template.template.authors == () else (template.zone_key, record.team_id)
        work = partial(self._steps.start_again, record, (request, template), on_started, image)
        with self._counted_as_busy(record.sandbox_id):
            try:
                return await self._threads.make(compartment, work)
            except NoCapacityError:
                if not await self._evict_for(PoolKey(template.build_id, template.zone_team), template, record.runtime):
                    raise
            return await self._threads.make(compartment, work)

    async def wait_start(self, sandbox: RuntimeSandbox) -> None:
        """Wait until the start command of a sandbox is up; no thread waits. Raises: StartFailedError."""
        if sandbox.starting is not None:
            await _wait_readable(sandbox.starting, self._steps.start_timeout_s + _START_GRACE_S)
            await self._threads.finish(sandbox.take_start)

    async def _wait_started(self, created: Created, *, is_for_client: bool = True) -> Created:
        """Wait until the start command is up; no thread waits. Raises: StartFailedError; nothing of the sandbox is left then."""
        if created.sandbox.starting is None:
            return created
        taking: asyncio.Future[Created] | None = None
        async with AsyncExitStack() as undo:
            undo.push_async_callback(lambda: self._to_the_end(self._discard(created, taking)))
            await _wait_readable(created.sandbox.starting, self._steps.start_timeout_s + _START_GRACE_S)
            taking = asyncio.ensure_future(self._threads.finish(partial(self._steps.take_start, created, is_for_client=is_for_client)))
            started = await asyncio.shield(taking)
            undo.pop_all()
        return started

    async def _evict_for(self, keep: PoolKey, template: ResolvedTemplate, runtime: str) -> bool:
        """End ready sandboxes of other templates until there is room for a zone of this one. Whether that made room."""
        deadline = time.monotonic() + _EVICTION_WAIT_S
        has_evicted = False
        while not await self._threads.finish(partial(self._steps.has_room, template, runtime)):
            evicted = self._pool.evict_coldest(keep)
            await asyncio.gather(*(self.discard_ready(ready) for ready in evicted))
            has_evicted = has_evicted or bool(evicted)
            if not has_evicted or time.monotonic() > deadline:
                return False
            await asyncio.sleep(_EVICTION_POLL_S)  # the runtime gives back what a sandbox held after its end
        return has_evicted

    # ---- ahead of clients ----

    async def warm(self, template: str) -> None:
        """Prepare a template and fill the pool with it, for the team whose code it has, or for any team when it has code of several.

        Best effort: a failure only makes the first creation slower. Raises: TemplateNotFoundError.
        """
        found = await self._resolve(template, None)
        if found.template.has_memory:
            return
        key = _pool_key(template, found)
        began = time.monotonic()
        try:
            runtime = self._runtime_ahead(key, found)
            await self._evict_for(key, found, runtime)
            await self.prepare(key)
            is_filled = self._steps.can_make_ahead(runtime) and await self._pool.wait_filled(key, _FILL_TIMEOUT_S)
        except (CloisterError, OSError) as error:
            _log.warning("template.not_warm", template=template, error=str(error))
        else:
            _log.info("template.warm", template=template, made_ahead=is_filled, seconds=round(time.monotonic() - began, 3))

    def drop_build(self, build_id: str) -> None:
        """A build was dropped: end the sandboxes made ahead of it."""
        self._pool.drop_build(build_id)

    async def prepare(self, key: PoolKey) -> None:
        """See :class:`SandboxSource`."""
        found = await self._resolve(key.template, key.team_id)
        await self._threads.prepare(partial(self._steps.prepare, self._request_ahead(key, found), found))

    async def make_ahead(self, key: PoolKey) -> ReadySandbox:
        """See :class:`SandboxSource`. The sandbox has the template's own limits and variables."""
        found = await self._resolve(key.template, key.team_id)
        request = self._request_ahead(key, found)
        self._unclaimed.add(request.sandbox_id)
        work = partial(self._steps.make, request, found, is_for_client=False)
        making = asyncio.create_task(self._make(request, found, work))
        async with AsyncExitStack() as undo:
            undo.push_async_callback(lambda: self._to_the_end(self._discard_made(request.sandbox_id, making)))
            made = await asyncio.shield(making)
            undo.pop_all()
        return ReadySandbox(key=key, build_id=found.build_id, zone_key=found.zone_key, record=made.record, sandbox=made.sandbox)

    def _request_ahead(self, key: PoolKey, found: ResolvedTemplate) -> SandboxRequest:
        runtime = self._runtime_ahead(key, found)
        return SandboxRequest(sandbox_id=new_sandbox_id(), template=key.template, end_at=0.0, team_id=key.team_id, runtime=runtime)

    def _runtime_ahead(self, key: PoolKey, found: ResolvedTemplate) -> str:
        """The runtime of a sandbox of the key whose request names none. Raises: as :meth:`CreationSteps.choose_runtime`."""
        request = SandboxRequest(sandbox_id="", template=key.template, end_at=0.0, team_id=key.team_id)
        return self._steps.choose_runtime(request, found)

    async def wait_ready(self, ready: ReadySandbox) -> None:
        """See :class:`SandboxSource`."""
        await self._wait_started(Created(record=ready.record, sandbox=ready.sandbox), is_for_client=False)

    async def discard_ready(self, ready: ReadySandbox) -> None:
        """See :class:`SandboxSource`."""
        await self._to_the_end(self._discard(Created(record=ready.record, sandbox=ready.sandbox)))

    def is_busy(self) -> bool:
        """See :class:`SandboxSource`: whether creations for clients occupy every processor."""
        oldest = time.monotonic() - _BUSY_S
        return sum(began > oldest for began in self._making.values()) >= (os.cpu_count() or 1)

    # ---- undo ----

    async def _discard(self, created: Created, working: asyncio.Future[Created] | None = None) -> None:
        """End a sandbox that no client has, once the thread that works on it is done."""
        try:
            if working is not None:
                await asyncio.gather(working, return_exceptions=True)
            await self._threads.finish(partial(self._steps.discard, created.record.sandbox_id, created.sandbox))
        finally:
            self._unclaimed.discard(created.record.sandbox_id)

    async def _discard_made(self, sandbox_id: str, making: asyncio.Task[Created]) -> None:
        """End what a making thread still makes; one that fails has left nothing."""
        (made,) = await asyncio.gather(making, return_exceptions=True)
        if isinstance(made, Created):
            await self._discard(made)
        self._unclaimed.discard(sandbox_id)

    async def _to_the_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Await ``work``, which goes on when the caller is cancelled once more; :meth:`stop` waits for it."""
        task = asyncio.create_task(work)
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)
        await asyncio.shield(task)

    # ---- counting ----

    def _note_created(self, created: Created, kind: str, seconds: float) -> None:
        record, made_ahead, cold = created.record, created.made_ahead, created.sandbox.cold
        way = "cold" if cold else "made_ahead" if made_ahead else "forked"
        self._counts[way] += 1
        self._times.setdefault((way, kind), Durations(CREATION_BOUNDS_S)).add(seconds)
        how = {"runtime": record.runtime, "seconds": round(seconds, 3), "made_ahead": made_ahead, "cold": cold}
        _log.info("sandbox.created", sandbox_id=record.sandbox_id, template=record.template, **how)

    @contextmanager
    def _counted_as_busy(self, sandbox_id: str) -> Iterator[None]:
        self._making[sandbox_id] = time.monotonic()
        try:
            yield
        finally:
            del self._making[sandbox_id]

    @contextmanager
    def _cancelled_at_stop(self) -> Iterator[None]:
        task = asyncio.current_task()
        self._starting.add(task)
        try:
            yield
        finally:
            self._starting.discard(task)


def _pool_key(name: str, found: ResolvedTemplate) -> PoolKey:
    """A build that is named by its id stays that build; another name may come to mean a newer one."""
    return PoolKey(found.build_id if name == found.build_id else found.template.template_id, found.zone_team)


def _kind_of(name: str, found: ResolvedTemplate) -> str:
    """See :attr:`CreationTimes.kind`."""
    return "memory" if found.template.has_memory else "client" if is_build_id(name) else "stock"


async def _wait_readable(fd: int, timeout_s: float) -> None:
    """Wait until ``fd`` can be read, or the time is over."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass  # whoever reads it finds out
    finally:
        loop.remove_reader(fd)
