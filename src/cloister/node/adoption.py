"""Settles the journal of the previous supervisor at a start: adopts sandboxes that live, and completes what a crash cut off (I8).

Each entry has one of three outcomes. The sandbox is as it was, running or paused; or its end is noted with the true reason (I10); or it is
removed without a trace, because no client was told of it. A frozen sandbox whose processes are gone, because the host was restarted, is
kept with its disk alone. A pause or a resume that was cut off is completed, but a start on a kept disk is undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import structlog

from cloister.agentclient.post import post
from cloister.errors import AgentUnreachableError, CloisterError
from cloister.model.lifecycle import PauseKind
from cloister.model.node import EndedSandbox
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxState, transition
from cloister.node.background import WorkerThreads
from cloister.node.ends import EndLog, why_gone
from cloister.node.journal import Entry, Journal
from cloister.node.kept_disks import as_files, close_sandbox, image_in, remove_image
from cloister.node.live import LiveSandboxes
from cloister.node.origin import has_origin, sync_origin
from cloister.runtime.base import Runtime, RuntimeSandbox
from cloister.runtime.registry import Runtimes
from cloister.runtime.spec import SandboxSpec, Sharing

__all__ = ["Adoption"]

_HAS_OWNER = (SandboxState.RUNNING, SandboxState.PAUSING, SandboxState.PAUSED, SandboxState.RESUMING)
"""A client was told of a sandbox in these states."""
_RESTORE_S, _ANSWER_S, _POLL_S = 10.0, 1.0, 0.1
"""How long a restore that was under way may take to its end."""
_log = structlog.get_logger("cloister.node")


class Adoption:
    """Runs once, before the node protocol is served. Event loop only."""

    def __init__(self, *, runtimes: Runtimes, journal: Journal, ends: EndLog, live: LiveSandboxes, threads: WorkerThreads) -> None:
        self._runtimes = runtimes
        self._journal = journal
        self._ends = ends
        self._live = live
        self._threads = threads

    async def run(self) -> None:
        """Settle every entry of the journal. Raises: UnusableStateError: an entry is of a newer release."""
        found = self._journal.entries()
        for sandbox_id in found.begun:
            _log.info("journal.begun", sandbox_id=sandbox_id)
            self._journal.remove(sandbox_id)
        for sandbox_id in found.damaged:
            _log.error("journal.damaged", sandbox_id=sandbox_id, kept_in="node/damaged")
            self._note_end(sandbox_id, EndReason.CRASHED, "the node's record of it was damaged")
            self._journal.set_aside(sandbox_id)
        for entry in found.entries:
            await self._settle(entry)

    async def _settle(self, entry: Entry) -> None:
        record, why = entry.record, why_gone(entry.record)
        is_ended = bool(self._ends.find([record.sandbox_id]))
        try:
            sandbox = await self._take_over(entry)
        except (CloisterError, OSError) as error:  # it was ended, or the sweep ends it; the others are adopted
            _log.exception("sandbox.not_adopted", sandbox_id=record.sandbox_id)
            sandbox, why = None, (EndReason.CRASHED, f"the restarted node supervisor could not take it over: {error}")
        if record.state not in _HAS_OWNER or is_ended:  # a creation that was not answered, or an end that the crash cut off
            _log.info("sandbox.cut_off", sandbox_id=record.sandbox_id, state=record.state)
            await self._discard(record, sandbox)
            return
        self._restore_record(entry)
        try:
            await self._keep(entry, sandbox, why)
        except (CloisterError, OSError) as error:
            _log.exception("sandbox.not_settled", sandbox_id=record.sandbox_id, state=record.state)
            self._note_end(record.sandbox_id, EndReason.CRASHED, f"the restarted node supervisor could not keep it: {error}")
            await self._discard(record, sandbox)

    async def _keep(self, entry: Entry, sandbox: RuntimeSandbox | None, why: tuple[EndReason, str]) -> None:
        """Keep a sandbox that has an owner, as its record has it, as far as that is possible. Raises: CloisterError, OSError."""
        record = entry.record
        is_in_memory = record.pause is None or record.pause.kind is PauseKind.FROZEN
        if sandbox is not None and (is_in_memory or await self._is_restored(record, sandbox)):
            settled = await self._threads.run(lambda: self._finish_change(record, sandbox))
            if settled is not None:
                self._live.add(settled, sandbox)
                remove_image(self._journal.directory_of(record.sandbox_id))  # an unfinished one, or one that it has gone on from
                return
        found = None if record.pause is None else await self._threads.run(lambda: self._closed(entry, sandbox))
        if found is None:
            self._note_end(record.sandbox_id, *why)
            await self._discard(record, None)
            return
        kept, state = found
        if (kept, state) != (record, entry.runtime_state):
            await self._threads.run(lambda: self._note(kept, state))
        self._live.add_kept(kept, state)
        if kept.pause != record.pause:
            _log.warning("sandbox.memory_lost", sandbox_id=record.sandbox_id, detail=why[1])
            remove_image(self._journal.directory_of(record.sandbox_id))

    async def _is_restored(self, record: SandboxRecord, sandbox: RuntimeSandbox) -> bool:
        """Whether a sandbox that was being resumed with its saved memory has come so far that its agent answers."""
        if record.state is not SandboxState.RESUMING or record.pause is None or record.pause.kind is not PauseKind.CHECKPOINT:
            return False
        until = time.monotonic() + _RESTORE_S
        while not await self._threads.run(lambda: _answers(sandbox)):
            if time.monotonic() > until or sandbox.has_ended():
                return False
            await asyncio.sleep(_POLL_S)
        return True

    def _closed(self, entry: Entry, sandbox: RuntimeSandbox | None) -> tuple[SandboxRecord, dict[str, Any]] | None:
        """The record of a sandbox of which only the disk is kept, perhaps with its memory, and the runtime's state.

        Its memory stays only if no program may have written to the disk since it was saved. None: its disk is gone, or cannot be started
        again. Runs in: a worker thread. Raises: CloisterError, OSError.
        """
        record, directory = entry.record, self._journal.directory_of(entry.record.sandbox_id)
        runtime, had = self._runtimes.find(record.runtime), entry.runtime_state or {}
        if not runtime.capabilities.keep_disk or not has_origin(directory):
            return None
        paused = record if record.state is SandboxState.PAUSED else transition(record, SandboxState.PAUSED)
        if sandbox is not None:
            state, is_whole = close_sandbox(sandbox)
            sandbox.release()
            is_unchanged = is_whole and record.state is SandboxState.PAUSED
        elif self._has_disk(runtime, record):
            state, is_unchanged = {"trees": had.get("trees", [])}, "pid" not in had
        else:
            return None
        has_memory = paused.pause is not None and paused.pause.kind is PauseKind.CHECKPOINT and image_in(directory).is_dir()
        return paused if has_memory and is_unchanged else as_files(paused), state

    def _has_disk(self, runtime: Runtime, record: SandboxRecord) -> bool:
        """A disk that is out of reach now is one that is there: the resume waits for it and checks it. Runs in: a worker thread."""
        try:
            sync_origin(self._journal.directory_of(record.sandbox_id))
            return runtime.find_disk(self._spec(record))
        except (CloisterError, OSError):
            _log.exception("sandbox.disk_not_stored", sandbox_id=record.sandbox_id)
            return True

    def _note(self, record: SandboxRecord, state: dict[str, Any] | None) -> None:
        """Write an entry. A full disk must end no sandbox: the next start comes to the same result. Runs in: a worker thread."""
        try:
            self._journal.write(record, state, is_durable=record.is_on_disk)
        except OSError:
            _log.exception("journal.not_written", sandbox_id=record.sandbox_id)

    async def _discard(self, record: SandboxRecord, sandbox: RuntimeSandbox | None) -> None:
        if sandbox is not None:
            await self._threads.run(sandbox.kill)
            await self._threads.run(sandbox.release)
        self._journal.remove(record.sandbox_id)

    async def _take_over(self, entry: Entry) -> RuntimeSandbox | None:
        """None: it is dead.

        Raises: as :meth:`Runtime.adopt`; InvalidRequestError (this release has no runtime of its name).
        """
        state = entry.runtime_state
        if state is None or state.keys() <= {"trees"}:
            return None
        spec = self._spec(entry.record)
        runtime = self._runtimes.find(entry.record.runtime)
        return await self._threads.run(lambda: runtime.adopt(spec, state))

    def _finish_change(self, record: SandboxRecord, sandbox: RuntimeSandbox) -> SandboxRecord | None:
        """Complete the pause or resume that a crash cut off. A pause that cannot be completed was not, so the sandbox runs on.

        None: it was paused, and cannot be kept frozen. Runs in: a worker thread.
        """
        if record.state is SandboxState.RUNNING:
            return record
        if record.state is SandboxState.RESUMING:
            sandbox.thaw()
            settled: SandboxRecord | None = transition(record, SandboxState.RUNNING, pause=None, started_at=time.time())
        else:
            settled = self._freeze_again(record, sandbox)
        if settled is not None and settled.state is not record.state:
            self._note(settled, sandbox.state())
        return settled

    def _freeze_again(self, record: SandboxRecord, sandbox: RuntimeSandbox) -> SandboxRecord | None:
        try:
            sandbox.freeze()
        except (CloisterError, OSError):
            _log.exception("sandbox.not_paused", sandbox_id=record.sandbox_id)
            return None if record.state is SandboxState.PAUSED else transition(record, SandboxState.RUNNING, pause=None)
        return record if record.state is SandboxState.PAUSED else transition(record, SandboxState.PAUSED)

    def _restore_record(self, entry: Entry) -> None:
        if entry.is_copy:
            _log.error("journal.copy_used", sandbox_id=entry.record.sandbox_id)
            with contextlib.suppress(OSError):  # the disk is full: the copy is still there
                self._journal.write(entry.record, entry.runtime_state)

    def _spec(self, record: SandboxRecord) -> SandboxSpec:
        """As much of a specification as an adoption needs."""
        return SandboxSpec(
            sandbox_id=record.sandbox_id,
            sharing=Sharing(key=""),
            directory=self._journal.directory_of(record.sandbox_id),
            layers=(),
            agent=None,
            limits=record.limits,
            egress=record.egress,
            volumes=record.volumes,
        )

    def _note_end(self, sandbox_id: str, reason: EndReason, message: str) -> None:
        """Note an end that no supervisor saw. A reason that was noted before counts."""
        ended = self._ends.decide(EndedSandbox(sandbox_id=sandbox_id, reason=reason, message=message, at=time.time()))
        self._ends.store(ended)
        _log.warning("sandbox.ended", sandbox_id=sandbox_id, reason=ended.reason, detail=ended.message)


def _answers(sandbox: RuntimeSandbox) -> bool:
    """Whether the agent answers, whatever it says."""
    try:
        with post(sandbox.dial(), "/health", b"", {}, _ANSWER_S):
            return True
    except AgentUnreachableError:
        return False
