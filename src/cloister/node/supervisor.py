"""The node supervisor: creates, watches, expires and ends the sandboxes of one machine, and adopts them after a crash.

Owns every kernel resource through its runtime. Blocking work runs in worker threads; this object's state is touched by the event loop only.
Invariants: I6 (lifetime), I8 (kill is idempotent and always ends; what lives is adopted), I10 (the reason of an end is the true one).

    create ──> creating ──> (starting) ──> running ──> ending ──> dead ──> gone

A failure before a sandbox runs goes to gone; ending has one task, whoever asks.

A kill is answered when every process is dead. What the sandbox held is given back behind, by threads of its own, so that neither creations
nor kills wait for it; the journal has its entry until then, and its id and slot are not given out again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog

from cloister import __version__
from cloister.errors import AlreadyExistsError, CloisterError, InvalidRequestError, IsolationError, SandboxNotFoundError
from cloister.model.node import EndedSandbox, NodeInfo, SandboxMetrics, SandboxNote, SandboxStats
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxRequest, SandboxState
from cloister.model.template import Template
from cloister.node.catalog import Catalog
from cloister.node.ceiling import Ceiling
from cloister.node.host import NodeHost
from cloister.node.journal import Entry, Journal
from cloister.node.maker import Maker
from cloister.node.pool import HOT_S
from cloister.node.sampler import Sampler
from cloister.node.server import DnsSockets
from cloister.node.snapshots import SnapshotName, Snapshots
from cloister.runtime.base import RuntimeSandbox
from cloister.runtime.spec import SandboxSpec

__all__ = ["Supervisor"]

_log = structlog.get_logger("cloister.node")
_T = TypeVar("_T")
_WORKERS = 16
_CLEANERS = 2
_SNAPSHOOTERS = 2
"""Snapshots at a time: they share the disk."""
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

    def __init__(self, host: NodeHost, catalog: Catalog, journal: Journal, maker: Maker, upstream_dns: tuple[str, ...]) -> None:
        self._host = host
        self._catalog = catalog
        self._journal = journal
        self._maker = maker
        self._upstream_dns = upstream_dns
        self._live: dict[str, _Live] = {}
        self._creating: set[str] = set()
        self._creations = Counter[str]()
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="node")
        self._cleaners = ThreadPoolExecutor(_CLEANERS, thread_name_prefix="cleaner")
        self._snapshooters = ThreadPoolExecutor(_SNAPSHOOTERS, thread_name_prefix="snapshooter")
        self._dead: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._dns: DnsSockets | None = None
        self.sampler = Sampler(self._in_thread, take_refusals=host.network.take_refusals)
        self.on_ended: Callable[[EndedSandbox], Any] = lambda _ended: None
        """Called on the event loop when a sandbox has ended; may return an awaitable."""
        self.on_note: Callable[[SandboxNote], Coroutine[Any, Any, None]] | None = None
        """Called on the event loop when a sandbox met one of its limits, or the network refused it something."""
        self.sampler.on_note = self._note
        self.snapshots: Snapshots | None = None
        self.ceiling: Ceiling | None = None
        """What a creation may ask for at most."""
        self.is_resolver_served = asyncio.Event()
        """Whether an api process has come for the resolver's sockets, so that sandboxes can look names up."""
        self.on_asked: Callable[[str], None] = lambda _template: None
        """Called with what a creation asks for."""
        self.count_builds: Callable[[], dict[str, int]] = dict
        """Builds by status, for :meth:`ping`."""

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
        self._maker.run()

    async def stop(self, *, keep_sandboxes: bool) -> None:
        """End every sandbox (unless they shall live on without a supervisor) and stop the tasks of this object."""
        for task in self._tasks:
            task.cancel()
        for live in self._live.values():
            if live.expiry:
                live.expiry.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._maker.stop()
        if not keep_sandboxes:
            await asyncio.gather(*(self._end(sandbox_id, EndReason.STOPPED) for sandbox_id in tuple(self._live)))
        await asyncio.gather(*self._dead.values())
        self._maker.close()
        self._snapshooters.shutdown(wait=True, cancel_futures=True)
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

    def _known(self) -> set[str]:
        """Ids that are no leftovers: alive, being created, or being released. Called from worker threads too."""
        return {*self._live, *self._creating, *self._dead, *self._maker.ids()}

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL_S)
            try:
                removed = await self._in_thread(lambda: self._host.runtime.sweep(self._known))
                await self._in_thread(self._host.network.refresh)
                await self._in_thread(lambda: self._host.runtime.let_go(HOT_S))
            except (CloisterError, OSError):  # task border: the next round tries again
                _log.exception("node.sweep_failed")
            else:
                if removed:
                    _log.warning("node.swept", removed=removed)

    # ---- NodeService ----

    async def reserve(self, template: str) -> str:
        """See :class:`NodeService`."""
        reserved = self._maker.reserve(template)
        self.on_asked(template)
        return reserved

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """See :class:`NodeService`. Raises: TemplateNotFoundError, NoCapacityError, IsolationError, RuntimeFailedError."""
        sandbox_id = request.sandbox_id
        if any(sandbox_id in ids for ids in (self._live, self._creating, self._dead)):
            raise AlreadyExistsError(f"there is a sandbox {sandbox_id} already")
        if self.ceiling is not None and request.limits is not None:
            self.ceiling.check(request.limits)
        self._creating.add(sandbox_id)
        return await asyncio.shield(asyncio.create_task(self._create_and_watch(request)))  # runs to its end, whoever still waits for it

    async def _create_and_watch(self, request: SandboxRequest) -> SandboxRecord:
        began = time.monotonic()
        try:
            record, sandbox, made_ahead = await self._maker.create(request)
            self._watch(record, sandbox, cpu_before_s=sandbox.cpu_used_s() if made_ahead else 0.0)
        finally:
            self._creating.discard(request.sandbox_id)
        seconds = round(time.monotonic() - began, 3)
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
            self.is_resolver_served.set()
        return self._dns

    async def ping(self) -> NodeInfo:
        """See :class:`NodeService`."""
        return NodeInfo(
            version=__version__,
            instance=self._host.instance.number,
            creations=dict(self._creations),
            zygotes=self._host.runtime.prepared(),
            builds=self.count_builds(),
        )

    async def snapshot(self, sandbox_id: str, build_id: str, template_id: str, name: str) -> Template:
        """See :class:`NodeService`."""
        live = self._find(sandbox_id)
        if self.snapshots is None:
            raise InvalidRequestError("this node takes no snapshots")
        take = partial(self.snapshots.of, live.record, live.sandbox, SnapshotName(build_id=build_id, template_id=template_id, name=name))
        taking = asyncio.get_running_loop().run_in_executor(self._snapshooters, take)
        return await asyncio.shield(taking)

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
