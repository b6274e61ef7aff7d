"""Pauses and resumes the sandboxes of a node.

Event loop only, except where a method says so. A sandbox has one change at a time. Whoever asks for the change under way gets its outcome;
whoever asks for another waits for its end first. A kill waits for no change of a sandbox in memory, and always wins: a change that meets
one undoes itself.

The journal has every state, so that a supervisor that starts after a crash finds a sandbox that runs or one that is paused::

    running ── pausing: write, freeze, write ──> paused ── resuming: write, thaw, write ──> running

With ``memory`` false, :mod:`cloister.node.kept_disks` does what is between the states.

Invariants: I6 (a sandbox is paused or ended at its deadline, and a paused one after the longest time that the node keeps it), I8.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from cloister.errors import CloisterError, ConflictError, SandboxNotFoundError
from cloister.model.lifecycle import Pause, PauseKind, TimeoutAction
from cloister.model.node import PausedSandbox
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxState, transition
from cloister.node.announcing import announce
from cloister.node.background import BackgroundTasks
from cloister.node.kept_disks import KeptDisks, PausingParts, as_files
from cloister.node.live import LiveSandbox
from cloister.nodewire.requests import PauseSandbox, ResumeSandbox
from cloister.protocol.pausing import Standstill
from cloister.runtime.base import BrokenSandboxError

__all__ = ["Pausing", "PausingParts"]

_log = structlog.get_logger("cloister.node")
_RETRY_S = (0.2, 1.0, 3.0)
"""The waits between the attempts to pause a sandbox at its deadline. After the last one it is ended."""
_FREEZES = 6
"""Freezes at a time: a program can delay one by seconds, and with those of kept_disks.py they must not have all threads of the node."""


class Pausing:
    """The pauses and resumes of one node. It is the :class:`~cloister.node.live.Pauser` of its sandboxes."""

    def __init__(self, parts: PausingParts) -> None:
        self._live = parts.live
        self._disks = KeptDisks(parts)
        self._admission = parts.admission
        self._journal = parts.journal
        self._sampler = parts.sampler
        self._events = parts.events
        self._threads = parts.threads
        self._freezes = asyncio.Semaphore(_FREEZES)
        self._expiring: set[str] = set()
        self._counts = Counter[str]()
        self._tasks = BackgroundTasks()
        parts.live.pauser = self

    async def pause(self, request: PauseSandbox) -> SandboxRecord:
        """See :class:`~cloister.nodewire.methods.SandboxMethods`. A pause that has begun goes on when the caller is cancelled.

        Raises also: QuotaExceededError, NoCapacityError, InvalidRequestError (its runtime cannot), OSError.
        """
        return await self._reach(request.sandbox_id, "pause", _is_paused, partial(self._pause, memory=request.memory))

    async def resume(self, request: ResumeSandbox) -> SandboxRecord:
        """See :class:`~cloister.nodewire.methods.SandboxMethods`. A resume that has begun goes on when the caller is cancelled.

        Raises also: QuotaExceededError, InvalidRequestError (of the deadline), OSError.
        """
        return await self._reach(request.sandbox_id, "resume", _is_running, partial(self._resume, request=request))

    async def save(self, sandbox_id: str, *, memory: bool) -> SandboxRecord:
        """Pause a sandbox before a stop or in a drain: no quota refuses that. Without ``memory`` a frozen one gives up its own, too.

        Raises: as :meth:`pause`.
        """
        record = await self._reach(sandbox_id, "pause", _is_paused, partial(self._pause, memory=memory, is_bounded=False))
        if not memory:
            return await self._keep_files(sandbox_id)
        self._tell(record)  # a drain pauses while the api process is there
        return record

    async def checkpoint(self, sandbox_id: str) -> SandboxRecord:
        """Save the memory of a sandbox, frozen or running, on disk, and give back what it holds of the host. No quota refuses that.

        Raises: as :meth:`pause`; ConflictError, UnavailableError: it stays frozen, as its memory cannot be saved.
        """
        await self._reach(sandbox_id, "pause", _is_paused, partial(self._pause, memory=True, is_bounded=False))
        return await self._move_to_disk(sandbox_id, is_bounded=False)

    async def move_to_disk(self, sandbox_id: str) -> SandboxRecord:
        """As :meth:`checkpoint`, for a sandbox that is frozen. One that a client has resumed meanwhile runs on.

        Raises also: QuotaExceededError: its team would have more disk than it may.
        """
        return await self._move_to_disk(sandbox_id, is_bounded=True)

    async def _move_to_disk(self, sandbox_id: str, *, is_bounded: bool) -> SandboxRecord:
        saved = await self._reach(sandbox_id, "checkpoint", _is_not_frozen, partial(self._save_memory, is_bounded=is_bounded))
        self._tell(saved)
        return saved

    async def _keep_files(self, sandbox_id: str) -> SandboxRecord:
        """Have a paused sandbox without memory, and tell of it, as no client asked for that. Raises: as :meth:`pause`."""
        kept = await self._reach(sandbox_id, "keep files", _is_on_disk, self._give_up_memory)
        self._tell(kept)
        return kept

    def counts(self) -> dict[str, int]:
        """Pauses and resumes since the start: ``pause_done``, ``pause_failed``, ``resume_done``, ``resume_failed``."""
        return dict(self._counts)

    async def stop(self) -> None:
        """Pause no sandbox at its deadline any more. A change under way goes on; :meth:`LiveSandboxes.stop` waits for it."""
        await self._tasks.stop()

    async def _reach(
        self,
        sandbox_id: str,
        name: str,
        is_there: Callable[[SandboxRecord], bool],
        change: Callable[[LiveSandbox], Coroutine[Any, Any, SandboxRecord]],
    ) -> SandboxRecord:
        """Have the sandbox as ``is_there`` wants it: as it is, by the change of that name under way, or by ``change``.

        A change that was joined may end without an effect: that at a deadline does if the sandbox has got more time.
        """
        while True:
            live = self._live.find_any(sandbox_id)
            if live.change is None and is_there(live.record):
                return live.record
            is_own = live.change is None
            if live.change is None:
                self._begin(live, name, change(live))
            elif live.change.get_name() != name:
                await asyncio.wait({live.change})
                continue
            assert live.change is not None
            reached = await asyncio.shield(live.change)
            if is_own or is_there(reached):
                return reached

    def _begin(self, live: LiveSandbox, name: str, change: Coroutine[Any, Any, SandboxRecord]) -> None:
        def forget(done: asyncio.Task[SandboxRecord]) -> None:
            live.change = None
            error = None if done.cancelled() else done.exception()
            if not done.cancelled() and not isinstance(error, SandboxNotFoundError):
                self._counts[f"{name}_{'done' if error is None else 'failed'}"] += 1
            if error is not None:
                _log.warning("sandbox.not_changed", sandbox_id=live.record.sandbox_id, change=name, error=str(error))

        live.change = asyncio.create_task(change, name=name)
        live.change.add_done_callback(forget)

    # ---- pause ----

    async def _pause(self, live: LiveSandbox, *, memory: bool, only_if_due: bool = False, is_bounded: bool = True) -> SandboxRecord:
        """``only_if_due``: not if the sandbox has got more time meanwhile. ``is_bounded``: not beyond a quota."""
        sandbox_id, kind = live.record.sandbox_id, PauseKind.FROZEN if memory else PauseKind.FILES
        live.sandbox.capabilities.require(live.record.runtime, "freeze" if memory else "keep_disk")
        if live.readers:
            await asyncio.wait(live.readers)
        record = self._live.find(sandbox_id).record
        if only_if_due and record.end_at > time.time():
            return record
        if is_bounded:
            self._admission.check_pause(record)
        self._live.stop_timer(live)
        self._sampler.hold(sandbox_id)
        began = time.monotonic()
        pausing = live.record = transition(record, SandboxState.PAUSING, pause=Pause(kind=kind, at=time.time()))
        paused = transition(pausing, SandboxState.PAUSED)
        try:
            if memory:
                async with self._freezes:
                    self._live.find_any(sandbox_id)
                    await self._threads.run(partial(self._freeze, live, pausing, paused))
            else:
                await self._disks.close(live, pausing, paused)
        except (CloisterError, OSError):
            await self._go_back(live, transition(pausing, SandboxState.RUNNING, pause=None))
            raise
        self._settle(live, paused)
        _log.info("sandbox.paused", sandbox_id=sandbox_id, kind=kind, seconds=round(time.monotonic() - began, 3))
        return paused

    def _freeze(self, live: LiveSandbox, pausing: SandboxRecord, paused: SandboxRecord) -> None:
        """Runs in: a worker thread."""
        state = live.sandbox.state()
        self._journal.write(pausing, state)
        announce(pausing, live.sandbox, Standstill.MEMORY)
        try:
            live.sandbox.freeze()
            self._journal.write(paused, state)
        except BaseException:
            live.sandbox.thaw()
            raise
        if live.ending is not None:  # a kill thaws: once before this freeze, so that its processes could not die
            live.sandbox.thaw()

    async def _give_up_memory(self, live: LiveSandbox) -> SandboxRecord:
        """A paused sandbox becomes a disk."""
        if live.record.is_frozen:
            return await self._close_as(live, as_files(live.record))
        if live.record.pause is not None and live.record.pause.kind is PauseKind.CHECKPOINT:
            files = as_files(live.record)
            await self._disks.drop_memory(live, files)
            self._live.find_any(files.sandbox_id)
            live.record = files
        return live.record

    async def _save_memory(self, live: LiveSandbox, *, is_bounded: bool) -> SandboxRecord:
        """A frozen sandbox becomes a disk and an image of its memory. One that cannot be saved stays frozen, and its record says why.

        One that was broken by the attempt is kept as files.
        """
        frozen = live.record
        if frozen.pause is None or not frozen.is_frozen:
            return frozen
        if is_bounded:
            self._admission.check_image(frozen)
        try:
            await self._disks.save_memory(live)
        except ConflictError as error:
            self._live.find_any(frozen.sandbox_id)
            refused = live.record = dataclasses.replace(frozen, pause=dataclasses.replace(frozen.pause, why_not_deeper=error.message))
            await self._threads.run(lambda: self._journal.write(refused, live.state()))
            self._tell(refused)
            raise
        except BrokenSandboxError as error:  # it must not go on; its files are whole
            files = as_files(frozen)
            assert files.pause is not None
            broken = dataclasses.replace(files, pause=dataclasses.replace(files.pause, why_not_deeper=error.message))
            self._tell(await self._close_as(live, broken))
            raise
        saved = dataclasses.replace(frozen, pause=dataclasses.replace(frozen.pause, kind=PauseKind.CHECKPOINT))
        return await self._close_as(live, saved)

    async def _close_as(self, live: LiveSandbox, kept: SandboxRecord) -> SandboxRecord:
        """End the processes of a frozen sandbox and keep it as ``kept`` says. Raises: it stays frozen, or it is being ended."""
        frozen = live.record
        try:
            kept = await self._disks.close(live, kept, kept)
        except (CloisterError, OSError):
            await self._go_back(live, frozen)
            raise
        self._live.find_any(kept.sandbox_id)
        live.record = kept
        _log.info("sandbox.memory_moved", sandbox_id=kept.sandbox_id, kind=None if kept.pause is None else kept.pause.kind)
        return kept

    # ---- resume ----

    async def _resume(self, live: LiveSandbox, *, request: ResumeSandbox) -> SandboxRecord:
        began = time.monotonic()
        image_bytes = await self._threads.run(partial(self._disks.image_bytes, request.sandbox_id)) if request.memory else 0
        had = self._live.find_any(request.sandbox_id).record
        self._admission.check_resume(had, request.end_at, image_bytes)
        if not request.memory:
            self._admission.check_resume(await self._give_up_memory(live), request.end_at)  # others may have been admitted meanwhile
        self._live.stop_timer(live)
        before = live.record
        lifecycle = before.lifecycle if request.lifecycle is None else request.lifecycle
        resuming = live.record = transition(before, SandboxState.RESUMING, end_at=request.end_at, lifecycle=lifecycle)
        try:
            if before.is_frozen:
                running = await self._threads.run(partial(self._thaw, live, resuming))
            else:
                running = await self._disks.start(live, before, resuming)
        except (CloisterError, OSError):
            await self._go_back(live, before)
            if before.pause != had.pause:
                self._tell(before)
            raise
        self._settle(live, running)
        _log.info("sandbox.resumed", sandbox_id=before.sandbox_id, seconds=round(time.monotonic() - began, 3))
        return running

    def _thaw(self, live: LiveSandbox, resuming: SandboxRecord) -> SandboxRecord:
        """Runs in: a worker thread."""
        state = live.sandbox.state()
        self._journal.write(resuming, state)
        try:
            live.sandbox.thaw()
            running = transition(resuming, SandboxState.RUNNING, pause=None, started_at=time.time())
            self._journal.write(running, state)
        except BaseException:
            live.sandbox.freeze()
            raise
        return running

    # ---- both ----

    def _settle(self, live: LiveSandbox, record: SandboxRecord) -> None:
        """The sandbox has reached the state of ``record``. Raises: SandboxNotFoundError: an end has begun meanwhile."""
        self._live.find_any(record.sandbox_id)
        live.record = record
        if record.state is SandboxState.RUNNING:
            self._sampler.go_on(record.sandbox_id, live.sandbox)
        self._live.start_timer(live)

    async def _go_back(self, live: LiveSandbox, record: SandboxRecord) -> None:
        """The change has failed: the sandbox is again in the state of ``record``."""
        self._settle(live, record)
        try:
            await self._threads.run(lambda: self._journal.write(record, live.state()))
        except OSError:  # the disk is full; a supervisor that starts finishes the change
            _log.exception("journal.not_written", sandbox_id=record.sandbox_id)

    def _tell(self, record: SandboxRecord) -> None:
        if record.pause is not None:
            self._events.sandbox_paused(PausedSandbox(sandbox_id=record.sandbox_id, pause=record.pause))

    # ---- by itself ----

    def on_deadline(self, live: LiveSandbox) -> None:
        """See :class:`~cloister.node.live.Pauser`."""
        if live.record.sandbox_id not in self._expiring:
            self._expiring.add(live.record.sandbox_id)
            self._tasks.spawn(self._pause_or_end(live.record.sandbox_id, live.record.lifecycle.on_timeout))

    async def _pause_or_end(self, sandbox_id: str, action: TimeoutAction) -> None:
        """Pause a sandbox whose deadline has come. If that fails again and again, it ends: it must not live on without a bound."""
        pause = partial(self._pause, memory=action is not TimeoutAction.PAUSE_FILES, only_if_due=True)
        try:
            for wait_s in (*_RETRY_S, None):
                try:
                    self._tell(await self._reach(sandbox_id, "pause", _is_paused, pause))
                except SandboxNotFoundError:
                    return
                except Exception as error:  # noqa: BLE001 - whatever it is, the sandbox must not live on
                    _log.warning("sandbox.not_paused", sandbox_id=sandbox_id, error=repr(error), again_in_s=wait_s)
                    if wait_s is None:
                        message = f"its lifetime was over, and it could not be paused: {error}"
                        self._live.begin_end(sandbox_id, EndReason.EXPIRED, message)
                else:
                    return
                if wait_s is not None:
                    await asyncio.sleep(wait_s)
        finally:
            self._expiring.discard(sandbox_id)
            self._live.watch_time(sandbox_id)

    def on_death(self, live: LiveSandbox) -> None:
        """See :class:`~cloister.node.live.Pauser`."""
        self._tasks.spawn(self._keep_or_end(live.record.sandbox_id))

    def on_broken(self, live: LiveSandbox) -> None:
        """A capture has broken a process of a running sandbox: it must not go on, and its files are whole."""
        self._tasks.spawn(self._keep_or_end(live.record.sandbox_id))

    async def _keep_or_end(self, sandbox_id: str) -> None:
        """Keep the disk of a sandbox whose processes cannot go on; without a disk it ends."""
        try:
            await self.save(sandbox_id, memory=False)
        except SandboxNotFoundError:
            return
        except (CloisterError, OSError) as error:
            _log.warning("sandbox.not_kept", sandbox_id=sandbox_id, error=str(error))
            self._live.begin_end(sandbox_id, EndReason.CRASHED)


def _is_running(record: SandboxRecord) -> bool:
    return record.state is SandboxState.RUNNING


def _is_paused(record: SandboxRecord) -> bool:
    return record.state is SandboxState.PAUSED


def _is_not_frozen(record: SandboxRecord) -> bool:
    return not record.is_frozen


def _is_on_disk(record: SandboxRecord) -> bool:
    return record.is_on_disk
