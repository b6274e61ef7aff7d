"""The live sandboxes of a node, paused ones too: their timers, their ends, and the release of what they held.

Event loop only, except where a method says so. Invariants: I6 (a sandbox is ended or paused at its deadline), I8 (a kill is idempotent and
always ends), I10 (the first reason of an end is the one that counts).

The states are those of ``model/sandbox.py``. :mod:`cloister.node.pausing` pauses and resumes. A sandbox has at most one task that changes
it to paused or running, and one task that ends it, whoever asks for them. An end does not wait for a change: it kills the processes, and
the change finds that out. An end is done when every process is dead. Threads of their own release what the sandbox held afterwards, so that
neither creations nor kills wait for it. Until then the journal keeps the entry, and the sandbox's id and slot are not given out again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from cloister.errors import CloisterError, ConflictError, SandboxNotFoundError
from cloister.linux.process import kill_pidfd, open_pidfd
from cloister.model.lifecycle import TimeoutAction
from cloister.model.node import EndedSandbox
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxState, transition
from cloister.node.background import WorkerThreads
from cloister.node.ends import EndLog, end_of
from cloister.node.events import SandboxEvents
from cloister.node.journal import Journal
from cloister.node.limits import NodeLimits
from cloister.node.sampler import Sampler
from cloister.runtime.base import RuntimeSandbox

__all__ = ["LiveSandbox", "LiveSandboxes", "Pauser"]

_log = structlog.get_logger("cloister.node")
_RELEASERS = 2
_MAX_UNRELEASED = 64
"""Sandboxes that are dead and not released yet. An end beyond that waits, so that they cannot pile up."""


@dataclass
class LiveSandbox:
    """A sandbox that runs, is paused, changes from one to the other, or is ending."""

    record: SandboxRecord
    held: RuntimeSandbox | None
    """Its processes, which may be frozen; None: only its disk is kept."""
    kept_state: dict[str, Any] | None = None
    """The runtime's state in the journal while only the disk is kept."""
    is_closing: bool = False
    """The change under way ends the processes and keeps the disk: no other task may touch the processes."""
    started: tuple[int, int] | None = None
    """Process id and start time of the first process that the resume under way has started."""
    timer: asyncio.TimerHandle | None = None
    """Of its deadline, or of the longest time that it may stay paused."""
    change: asyncio.Task[SandboxRecord] | None = None
    """The pause or resume under way."""
    readers: set[asyncio.Future[Any]] = field(default_factory=set)
    """Snapshots that are being taken of it."""
    ending: asyncio.Task[None] | None = None

    @property
    def sandbox(self) -> RuntimeSandbox:
        """The processes of a sandbox that has some."""
        assert self.held is not None, f"sandbox {self.record.sandbox_id} has no processes"
        return self.held

    def state(self) -> dict[str, Any] | None:
        """For its entry in the journal."""
        return self.kept_state if self.held is None else self.held.state()


class Pauser(Protocol):
    """Pauses sandboxes by itself, at once and without a result."""

    def on_deadline(self, live: LiveSandbox) -> None:
        """The deadline of a sandbox has come, and its lifecycle says that it is paused then."""
        ...

    def on_death(self, live: LiveSandbox) -> None:
        """The processes of a frozen sandbox have ended; its disk is there."""
        ...


class LiveSandboxes:
    """The sandboxes of this node that have an owner, from their creation or adoption to their release."""

    def __init__(
        self, *, limits: NodeLimits, journal: Journal, ends: EndLog, sampler: Sampler, events: SandboxEvents, threads: WorkerThreads
    ) -> None:
        self._limits = limits
        self._journal = journal
        self._ends = ends
        self._sampler = sampler
        self._events = events
        self._threads = threads
        self._releasers = WorkerThreads(_RELEASERS, "releaser")
        self._live: dict[str, LiveSandbox] = {}
        self._releasing: dict[str, asyncio.Task[None]] = {}
        self._is_stopping = False
        self.pauser: Pauser | None = None

    # ---- which there are ----

    def add(self, record: SandboxRecord, sandbox: RuntimeSandbox, cpu_before_s: float = 0.0) -> None:
        """Watch a running or frozen sandbox from now on. It had used ``cpu_before_s`` of processor time before it had an owner."""
        live = self._live[record.sandbox_id] = LiveSandbox(record, sandbox)
        self._sampler.watch(record.sandbox_id, sandbox, record.started_at, cpu_before_s)
        if record.state is SandboxState.PAUSED:
            self._sampler.hold(record.sandbox_id)
        self.watch(live)
        self.start_timer(live)

    def add_kept(self, record: SandboxRecord, state: dict[str, Any] | None) -> None:
        """Keep a paused sandbox of which there is only the disk. ``state`` is the runtime's, from the journal."""
        live = self._live[record.sandbox_id] = LiveSandbox(record, None, state)
        self._sampler.watch(record.sandbox_id, None, record.started_at)
        self._sampler.hold(record.sandbox_id)
        self.start_timer(live)

    def watch(self, live: LiveSandbox) -> None:
        """From now on the death of its processes ends the sandbox. One that is frozen keeps its disk."""
        asyncio.get_running_loop().add_reader(live.sandbox.pidfd, self._on_death, live)

    def _on_death(self, live: LiveSandbox) -> None:
        if live.record.is_frozen and live.change is None and self.pauser is not None and live.sandbox.capabilities.keep_disk:
            self.stop_watching(live)
            self.pauser.on_death(live)
        else:
            self.begin_end(live.record.sandbox_id, EndReason.CRASHED, live.sandbox.why_ended.strip(" ()"))

    def stop_watching(self, live: LiveSandbox) -> None:
        """The death of its processes does not end it any more."""
        if live.held is not None and not live.is_closing:
            asyncio.get_running_loop().remove_reader(live.held.pidfd)

    def find(self, sandbox_id: str) -> LiveSandbox:
        """A running sandbox. Raises: SandboxNotFoundError: there is none, or it is ending; ConflictError: it is paused."""
        live = self.find_any(sandbox_id)
        if live.record.state is not SandboxState.RUNNING:
            raise ConflictError(f"sandbox {sandbox_id} is {live.record.state}", hint="resume it first (connect to it)")
        return live

    def find_any(self, sandbox_id: str) -> LiveSandbox:
        """A sandbox, paused or not. Raises: SandboxNotFoundError: there is none, or it is ending."""
        live = self._live.get(sandbox_id)
        if live is None or live.ending is not None:
            raise SandboxNotFoundError(f"there is no sandbox {sandbox_id}")
        return live

    def running(self) -> list[SandboxRecord]:
        """The records of all running sandboxes."""
        return [live.record for live in self._live.values() if live.record.state is SandboxState.RUNNING]

    def records(self) -> list[SandboxRecord]:
        """The records of all sandboxes, paused ones too, but for those that are ending."""
        return [live.record for live in self._live.values() if live.ending is None]

    def count_paused(self) -> dict[str, int]:
        """Paused sandboxes, by kind."""
        return dict(Counter(str(record.pause.kind) for record in self.records() if record.pause is not None))

    def counted(self) -> list[SandboxRecord]:
        """The records of all sandboxes that hold anything of the node: those that run, are paused, or are ending."""
        return [live.record for live in self._live.values()]

    def is_taken(self, sandbox_id: str) -> bool:
        """Whether a sandbox of that id lives or is being released."""
        return sandbox_id in self._live or sandbox_id in self._releasing

    def ids(self) -> set[str]:
        """The ids that are taken: of sandboxes that live, or that are being released. May be called from any thread."""
        return {*self._live, *self._releasing}

    def team_of(self, sandbox_id: str) -> str:
        """The team that owns a live sandbox, or "". May be called from any thread."""
        live = self._live.get(sandbox_id)
        return "" if live is None else live.record.team_id

    # ---- deadlines ----

    def set_end(self, sandbox_id: str, end_at: float) -> None:
        """Let a sandbox live until ``end_at`` (epoch seconds). Raises: SandboxNotFoundError, InvalidRequestError, OSError."""
        live = self.find(sandbox_id)
        self._limits.check_deadline(end_at, time.time())
        self.replace_record(live, dataclasses.replace(live.record, end_at=end_at))
        self.start_timer(live)

    def replace_record(self, live: LiveSandbox, record: SandboxRecord) -> None:
        """Let the journal, and then this process, have another record of a sandbox. Raises: OSError, with the former one in both."""
        self._journal.write(record, live.state())
        live.record = record

    def start_timer(self, live: LiveSandbox) -> None:
        """Wait for the time at which a running sandbox, or a paused one, is to end."""
        self.stop_timer(live)
        pause, delay_s = live.record.pause, live.record.end_at - time.time()
        if pause is not None:
            delay_s = pause.at + self._limits.paused_s - time.time()
        if not self._is_stopping:
            live.timer = asyncio.get_running_loop().call_later(max(0.0, delay_s), self._on_time, live)

    def watch_time(self, sandbox_id: str) -> None:
        """Wait anew for the end of a sandbox that runs: a timer that came while it was being paused has done nothing."""
        live = self._live.get(sandbox_id)
        if live is not None and live.ending is None and live.change is None and live.record.state is SandboxState.RUNNING:
            self.start_timer(live)

    def stop_timer(self, live: LiveSandbox) -> None:
        """Let no time end the sandbox, until :meth:`start_timer`."""
        if live.timer is not None:
            live.timer.cancel()

    def _on_time(self, live: LiveSandbox) -> None:
        is_paused = live.record.pause is not None
        if not is_paused and live.record.lifecycle.on_timeout is not TimeoutAction.KILL and self.pauser is not None:
            self.pauser.on_deadline(live)
        else:
            self.begin_end(live.record.sandbox_id, EndReason.PAUSED_TOO_LONG if is_paused else EndReason.EXPIRED)

    def stop_timers(self) -> None:
        """End no sandbox at its deadline any more: the node is about to stop."""
        self._is_stopping = True
        for live in self._live.values():
            self.stop_timer(live)

    # ---- ends ----

    async def end(self, sandbox_id: str, reason: EndReason, message: str = "") -> bool:
        """End a sandbox, paused or not; returns when its processes are dead. False if there is none.

        Without a ``message`` the end gets its reason's.

        Raises: RuntimeFailedError, OSError: its processes did not end; :meth:`retry_failed_ends` and the next call try again.
        """
        ending = self.begin_end(sandbox_id, reason, message)
        if ending is None:
            return False
        await asyncio.shield(ending)  # a caller that goes away does not stop an end that has begun
        return True

    def retry_failed_ends(self) -> None:
        """Begin the ends that failed anew."""
        for sandbox_id in [sandbox_id for sandbox_id, live in self._live.items() if live.ending and _has_failed(live.ending)]:
            _log.warning("sandbox.end_tried_again", sandbox_id=sandbox_id)
            self.begin_end(sandbox_id, EndReason.KILLED)  # the reason that was decided first counts

    def begin_end(self, sandbox_id: str, reason: EndReason, message: str = "") -> asyncio.Task[None] | None:
        """Begin an end, or find the one under way; None if there is no such sandbox. For a change, which an end waits for."""
        live = self._live.get(sandbox_id)
        if live is None:
            return None
        if live.ending is None:
            live.record = transition(live.record, SandboxState.ENDING)
        if live.ending is None or _has_failed(live.ending):
            self.stop_timer(live)
            self.stop_watching(live)
            live.ending = asyncio.create_task(self._finish_end(live, self._ends.decide(end_of(sandbox_id, reason, message))))
        return live.ending

    async def _finish_end(self, live: LiveSandbox, ended: EndedSandbox) -> None:
        sandbox_id = live.record.sandbox_id
        await self._threads.run(lambda: self._ends.store(ended))  # before the first process is killed: a restart completes the end
        await self._kill(live)
        await self._sampler.forget(sandbox_id)
        self._events.sandbox_ended(ended)
        while len(self._releasing) >= _MAX_UNRELEASED:
            await asyncio.wait(self._releasing.values(), return_when=asyncio.FIRST_COMPLETED)
        live.record = transition(live.record, SandboxState.ENDED)
        self._releasing[sandbox_id] = asyncio.create_task(self._release(sandbox_id, live.held))
        del self._live[sandbox_id]
        _log.info("sandbox.ended", sandbox_id=sandbox_id, reason=ended.reason)

    async def _kill(self, live: LiveSandbox) -> None:
        """Kill its processes; also those that a change is starting, and so that a change finds it out. Raises: RuntimeFailedError."""
        killed = None if live.is_closing else live.held
        if killed is not None:
            await self._threads.run(killed.kill)
        elif live.started is not None:
            _kill_process(*live.started)
        if live.change is not None:
            await asyncio.wait({live.change})
        if live.held is not None and live.held is not killed:
            await self._threads.run(live.held.kill)

    async def _release(self, sandbox_id: str, sandbox: RuntimeSandbox | None) -> None:
        def work() -> None:
            try:
                if sandbox is not None:
                    sandbox.release()
            except (CloisterError, OSError):  # the sweep removes the rest later; the sandbox itself is dead
                _log.exception("sandbox.release_failed", sandbox_id=sandbox_id)
            self._journal.remove(sandbox_id)

        try:
            await self._releasers.run(work)
        finally:
            del self._releasing[sandbox_id]

    # ---- stop ----

    async def stop(self, *, keep_sandboxes: bool) -> None:
        """End every sandbox that has processes, unless they are to live on without a supervisor. Wait for all changes and releases."""
        if not keep_sandboxes:
            ends = [self.end(sandbox_id, EndReason.STOPPED) for sandbox_id, live in self._live.items() if not _is_only_disk(live)]
            await asyncio.gather(*ends)
        await asyncio.gather(*(live.change for live in self._live.values() if live.change is not None), return_exceptions=True)
        await asyncio.gather(*self._releasing.values())
        await self._threads.run(self._ends.sync)

    def close(self) -> None:
        """Wait for the threads. Call it after :meth:`stop`."""
        self._releasers.close()


def _kill_process(pid: int, start_ticks: int) -> None:
    pidfd = open_pidfd(pid, start_ticks)
    if pidfd is not None:
        kill_pidfd(pidfd)
        os.close(pidfd)


def _is_only_disk(live: LiveSandbox) -> bool:
    return live.held is None and live.change is None and live.ending is None


def _has_failed(task: asyncio.Task[None]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
