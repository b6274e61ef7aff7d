"""The node supervisor: creates, watches, expires and ends the sandboxes of one machine, and adopts them after a crash.

Owns every kernel resource through its runtime. Blocking work runs in worker threads; this object's state is touched by the event loop only.
Invariants: I6 (lifetime), I8 (kill is idempotent and always ends; what lives is adopted), I10 (the reason of an end is the true one).

    create ──> creating ──> running ──> ending ──> dead ──> gone    a failure while creating goes to gone; ending has one task, whoever asks

A kill is answered when every process is dead. What the sandbox held is given back behind, by threads of its own, so that neither creations
nor kills wait for it; the journal has its entry until then, and its id and slot are not given out again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from cloister import __version__
from cloister.errors import AlreadyExistsError, CloisterError, InvalidRequestError, IsolationError, NotFoundError, SandboxNotFoundError
from cloister.ids import new_sandbox_id
from cloister.model.build import BuildReport, BuildRequest
from cloister.model.node import EndedSandbox, NodeInfo, SandboxMetrics, SandboxNote, SandboxStats
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxRequest, SandboxState
from cloister.model.template import Template
from cloister.node.catalog import Catalog
from cloister.node.creation import Creator
from cloister.node.host import NodeHost
from cloister.node.journal import Entry, Journal
from cloister.node.pool import Pool, Pooled, PoolSize
from cloister.node.sampler import Sampler
from cloister.node.server import DnsSockets
from cloister.runtime.base import RuntimeSandbox
from cloister.runtime.spec import SandboxSpec

__all__ = ["Supervisor"]

_log = structlog.get_logger("cloister.node")
_T = TypeVar("_T")
_WORKERS = 16
_CLEANERS = 2
_DEAD_MAX = 64
"""Sandboxes that are dead and not given back yet; a kill beyond that waits, so that they cannot pile up."""
_SWEEP_INTERVAL_S = 60.0
_MESSAGES = {
    EndReason.EXPIRED: "its lifetime was over",
    EndReason.KILLED: "it was killed",
    EndReason.CRASHED: "its first process ended",
    EndReason.STOPPED: "the server was stopped",
}


@dataclass
class _Live:
    record: SandboxRecord
    sandbox: RuntimeSandbox
    expiry: asyncio.TimerHandle | None = None
    ending: asyncio.Task[None] | None = None


class Supervisor:
    """Implements :class:`cloister.node.server.NodeService`."""

    def __init__(
        self, host: NodeHost, catalog: Catalog, journal: Journal, creator: Creator, upstream_dns: tuple[str, ...], pool: PoolSize
    ) -> None:
        self._host = host
        self._catalog = catalog
        self._journal = journal
        self._creator = creator
        self._upstream_dns = upstream_dns
        self._live: dict[str, _Live] = {}
        self._creating: set[str] = set()
        self._creations = Counter[str]()
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="node")
        self._cleaners = ThreadPoolExecutor(_CLEANERS, thread_name_prefix="cleaner")
        self._dead: dict[str, asyncio.Task[None]] = {}
        self._pool = Pool(pool, make=self._make_ahead, end=self._end_pooled, is_busy=self._is_busy)
        self._tasks: set[asyncio.Task[None]] = set()
        self._dns: DnsSockets | None = None
        self.sampler = Sampler(self._in_thread, take_refusals=host.network.take_refusals)
        self.on_ended: Callable[[EndedSandbox], Any] = lambda _ended: None
        """Called on the event loop when a sandbox has ended; may return an awaitable."""
        self.on_note: Callable[[SandboxNote], Coroutine[Any, Any, None]] | None = None
        """Called on the event loop when a sandbox met one of its limits, or the network refused it something."""
        self.sampler.on_note = self._note

    # ---- start and stop ----

    async def start(self) -> None:
        """Adopt what lived through a restart, remove what did not, and begin to sweep."""
        entries, unreadable = self._journal.entries()
        for sandbox_id in unreadable:
            self._journal.remove(sandbox_id)
        for entry in entries:
            await self._adopt(entry)
        removed = await self._in_thread(lambda: self._host.runtime.sweep(self._known))
        _log.info("node.started", adopted=len(self._live), removed=removed)
        self._spawn(self._sweep_forever())
        self._spawn(self.sampler.run())
        self._spawn(self._pool.run())

    async def stop(self, *, keep_sandboxes: bool) -> None:
        """End every sandbox (unless they shall live on without a supervisor) and stop the tasks of this object."""
        for task in self._tasks:
            task.cancel()
        for live in self._live.values():
            if live.expiry:
                live.expiry.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pool.drain()
        if not keep_sandboxes:
            await asyncio.gather(*(self._end(sandbox_id, EndReason.STOPPED) for sandbox_id in tuple(self._live)))
        await asyncio.gather(*self._dead.values())
        self._cleaners.shutdown(wait=True)
        self._workers.shutdown(wait=True)

    async def _adopt(self, entry: Entry) -> None:
        record, state = entry.record, entry.runtime_state
        spec = self._bare_spec(record)
        try:
            sandbox = await self._in_thread(lambda: self._host.runtime.adopt(spec, state)) if state is not None else None
        except (IsolationError, OSError):  # its own fault stays its own: it was ended, the others are adopted
            _log.exception("sandbox.not_adopted", sandbox_id=record.sandbox_id)
            sandbox = None
        if sandbox is None:
            self._journal.remove(record.sandbox_id)
            return
        if record.state is SandboxState.RUNNING:
            self._watch(record, sandbox)
            return
        await self._in_thread(sandbox.kill)  # a creation that the crash cut off: nobody was told of it
        await self._in_thread(sandbox.release)
        self._journal.remove(record.sandbox_id)

    def _bare_spec(self, record: SandboxRecord) -> SandboxSpec:
        return SandboxSpec(
            sandbox_id=record.sandbox_id,
            template_key="",
            directory=self._journal.directory_of(record.sandbox_id),
            layers=(),
            agent=None,
            limits=record.limits,
            allow_internet=record.allow_internet,
        )

    def _is_busy(self) -> bool:
        """Whether clients wait for creations on every processor, so that none is left to make one ahead."""
        return len(self._creating) >= (os.cpu_count() or 1)

    def _known(self) -> set[str]:
        """Ids that are no leftovers: alive, being created, or being released. Called from worker threads too."""
        return {*self._live, *self._creating, *self._dead, *self._pool.ids()}

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL_S)
            try:
                removed = await self._in_thread(lambda: self._host.runtime.sweep(self._known))
                await self._in_thread(self._host.network.refresh)
            except (CloisterError, OSError):  # task border: the next round tries again
                _log.exception("node.sweep_failed")
            else:
                if removed:
                    _log.warning("node.swept", removed=removed)

    async def _make_ahead(self, template_id: str) -> Pooled:
        making = asyncio.create_task(self._in_thread(lambda: self._creator.make_ahead(template_id)))
        try:
            pooled = await asyncio.shield(making)
        except asyncio.CancelledError:  # a stop: what the thread still makes is nobody's
            with contextlib.suppress(CloisterError, OSError):  # it was not made
                pooled = await making
                await self._in_thread(lambda: self._creator.discard(pooled))
            raise
        loop = asyncio.get_running_loop()
        loop.add_reader(pooled.sandbox.pidfd, lambda: self._spawn(self._end_pooled(pooled)))
        return pooled

    async def _end_pooled(self, pooled: Pooled) -> None:
        asyncio.get_running_loop().remove_reader(pooled.sandbox.pidfd)
        self._pool.claim(pooled.record.sandbox_id)
        await self._in_thread(lambda: self._creator.discard(pooled))

    # ---- NodeService ----

    async def reserve(self, template: str) -> str:
        """See :class:`NodeService`."""
        found = self._catalog.find(template)
        return self._pool.reserve(found.template_id, found.build_id) or new_sandbox_id()

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """See :class:`NodeService`. Raises: TemplateNotFoundError, NoCapacityError, IsolationError, RuntimeFailedError."""
        sandbox_id = request.sandbox_id
        if sandbox_id in self._live or sandbox_id in self._creating or sandbox_id in self._dead:
            raise AlreadyExistsError(f"there is a sandbox {sandbox_id} already")
        self._creating.add(sandbox_id)
        return await asyncio.shield(asyncio.create_task(self._create_and_watch(request)))  # runs to its end, whoever still waits for it

    async def _create_and_watch(self, request: SandboxRequest) -> SandboxRecord:
        began = time.monotonic()
        pooled = self._pool.claim(request.sandbox_id)
        if pooled is not None:
            asyncio.get_running_loop().remove_reader(pooled.sandbox.pidfd)
        try:
            record, sandbox = await self._in_thread(lambda: self._creator.create(request, pooled))
            self._watch(record, sandbox, cpu_before_s=0.0 if pooled is None else sandbox.cpu_used_s())
        finally:
            self._creating.discard(request.sandbox_id)
        seconds = round(time.monotonic() - began, 3)
        made_ahead = pooled is not None and pooled.sandbox is sandbox
        self._creations["cold" if sandbox.cold else "made_ahead" if made_ahead else "forked"] += 1
        how = {"seconds": seconds, "made_ahead": made_ahead, "cold": sandbox.cold}
        _log.info("sandbox.created", sandbox_id=record.sandbox_id, template=record.template, **how)
        return record

    async def kill(self, sandbox_id: str, reason: EndReason) -> bool:
        """See :class:`NodeService`."""
        if sandbox_id not in self._live:
            return False
        await self._end(sandbox_id, reason)
        return True

    async def set_deadline(self, sandbox_id: str, end_at: float) -> None:
        """See :class:`NodeService`."""
        live = self._find(sandbox_id)
        live.record = dataclasses.replace(live.record, end_at=end_at)
        self._journal.write(live.record, live.sandbox.state())
        self._schedule_expiry(live)

    async def list(self) -> Sequence[SandboxRecord]:
        """See :class:`NodeService`."""
        return [live.record for live in self._live.values() if live.ending is None]

    async def get(self, sandbox_id: str) -> SandboxRecord:
        """See :class:`NodeService`."""
        return self._find(sandbox_id).record

    async def stats(self, sandbox_id: str) -> SandboxStats:
        """See :class:`NodeService`."""
        return SandboxStats(**vars(await self._in_thread(self._find(sandbox_id).sandbox.usage)))

    async def metrics(self, sandbox_id: str, start: float | None, end: float | None, newest: int | None) -> SandboxMetrics:
        """See :class:`NodeService`."""
        self._find(sandbox_id)
        return await self.sampler.metrics(sandbox_id, start, end, newest)

    async def dial(self, sandbox_id: str) -> socket.socket:
        """See :class:`NodeService`."""
        return await self._in_thread(self._find(sandbox_id).sandbox.dial)

    async def templates(self) -> Sequence[Template]:
        """See :class:`NodeService`."""
        return self._catalog.templates()

    async def dns_sockets(self) -> DnsSockets:
        """See :class:`NodeService`."""
        if self._dns is None:
            udp, tcp = await self._in_thread(self._host.network.dns_sockets)
            self._dns = DnsSockets(udp, tcp, self._upstream_dns)
        return self._dns

    async def ping(self) -> NodeInfo:
        """See :class:`NodeService`."""
        return NodeInfo(
            version=__version__,
            instance=self._host.instance.number,
            creations=dict(self._creations),
            zygotes=self._host.runtime.prepared(),
        )

    async def start_build(self, _request: BuildRequest) -> None:
        """See :class:`NodeService`."""
        raise InvalidRequestError("this node does not build templates yet")

    async def report_build(self, build_id: str, _offset: int, _limit: int) -> BuildReport:
        """See :class:`NodeService`."""
        raise NotFoundError(f"there is no build {build_id}")

    async def cancel_build(self, _build_id: str) -> bool:
        """See :class:`NodeService`."""
        return False

    async def drop_build(self, _build_id: str) -> None:
        """See :class:`NodeService`."""

    async def snapshot(self, _sandbox_id: str, _build_id: str, _template_id: str, _name: str) -> Template:
        """See :class:`NodeService`."""
        raise InvalidRequestError("this node makes no snapshots yet")

    # ---- one sandbox's life ----

    def _watch(self, record: SandboxRecord, sandbox: RuntimeSandbox, cpu_before_s: float = 0.0) -> None:
        live = self._live[record.sandbox_id] = _Live(record, sandbox)
        self.sampler.watch(record.sandbox_id, sandbox, record.started_at, cpu_before_s)
        asyncio.get_running_loop().add_reader(sandbox.pidfd, self._on_death, record.sandbox_id)
        self._schedule_expiry(live)

    def _schedule_expiry(self, live: _Live) -> None:
        if live.expiry:
            live.expiry.cancel()
        delay_s = max(0.0, live.record.end_at - time.time())
        live.expiry = asyncio.get_running_loop().call_later(delay_s, self._begin_end, live.record.sandbox_id, EndReason.EXPIRED)

    def _on_death(self, sandbox_id: str) -> None:
        self._begin_end(sandbox_id, EndReason.CRASHED)

    def _begin_end(self, sandbox_id: str, reason: EndReason) -> asyncio.Task[None] | None:
        live = self._live.get(sandbox_id)
        if live is None:
            return None
        if live.ending is None:
            if live.expiry:
                live.expiry.cancel()
            asyncio.get_running_loop().remove_reader(live.sandbox.pidfd)
            live.ending = asyncio.create_task(self._finish(live, reason))
        return live.ending

    async def _end(self, sandbox_id: str, reason: EndReason) -> None:
        task = self._begin_end(sandbox_id, reason)
        if task is not None:
            await asyncio.shield(task)  # a caller that goes away does not stop an end that has begun

    async def _finish(self, live: _Live, reason: EndReason) -> None:
        sandbox_id = live.record.sandbox_id
        await self._in_thread(live.sandbox.kill)
        await self.sampler.forget(sandbox_id)
        told = self.on_ended(EndedSandbox(sandbox_id=sandbox_id, reason=reason, message=_MESSAGES.get(reason, "")))
        if told is not None:
            await told
        while len(self._dead) >= _DEAD_MAX:
            await asyncio.wait(self._dead.values(), return_when=asyncio.FIRST_COMPLETED)
        self._dead[sandbox_id] = asyncio.create_task(self._give_back(sandbox_id, live.sandbox))
        del self._live[sandbox_id]
        _log.info("sandbox.ended", sandbox_id=sandbox_id, reason=reason)

    async def _give_back(self, sandbox_id: str, sandbox: RuntimeSandbox) -> None:
        def work() -> None:
            try:
                sandbox.release()
            except (CloisterError, OSError):  # what is left is swept later; the sandbox itself is dead
                _log.exception("sandbox.release_failed", sandbox_id=sandbox_id)
            self._journal.remove(sandbox_id)

        try:
            await asyncio.get_running_loop().run_in_executor(self._cleaners, work)
        finally:
            del self._dead[sandbox_id]

    def _note(self, note: SandboxNote) -> None:
        if not note.event.startswith("network."):  # where a sandbox wants to go is for its own log
            _log.info("sandbox.limit_met", sandbox_id=note.sandbox_id, limit=note.event)
        if self.on_note is not None:
            self._spawn(self.on_note(note))

    def _find(self, sandbox_id: str) -> _Live:
        live = self._live.get(sandbox_id)
        if live is None or live.ending is not None:
            raise SandboxNotFoundError(f"there is no sandbox {sandbox_id}")
        return live

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)
