"""Ends the processes of sandboxes and keeps their disks, perhaps with their memory; starts sandboxes again on kept disks.

Event loop only, except where a method says so. :mod:`cloister.node.pausing` decides when, and serialises. The journal is written before
the first process is killed and after the disk is stored for good, so that a supervisor that starts after a crash completes the rest::

    close:  entry "kept as files" ──> announce ──> kill ──> keep the disk ──> entry with the layers alone, synced ──> release
    start:  entry "resuming" ──> create on the disk (entry with the first process) ──> start command ──> entry "running"

An image of its memory is saved before that, while the sandbox is frozen. It fits the disk as that is then, so it is removed as soon as
a program may have written to the disk: after a restore, and before a start without it.

From the first kill on, a sandbox is kept, whatever fails. Invariant I8: it holds no slot, address or control group when it is closed.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from cloister.errors import CloisterError, RuntimeFailedError, SandboxNotFoundError, StartFailedError
from cloister.model.lifecycle import PauseKind
from cloister.model.node import SandboxNote
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxState, transition
from cloister.node.announcing import announce
from cloister.node.background import BackgroundTasks, WorkerThreads
from cloister.node.creation.admission import Admission
from cloister.node.creation.creator import Creator
from cloister.node.events import SandboxEvents
from cloister.node.journal import Journal
from cloister.node.live import LiveSandbox, LiveSandboxes
from cloister.node.origin import read_origin, sync_origin
from cloister.node.sampler import Sampler
from cloister.protocol.pausing import Standstill
from cloister.runtime.base import BrokenSandboxError, RuntimeSandbox

__all__ = ["KeptDisks", "PausingParts", "as_files", "close_sandbox", "image_in", "remove_image"]

_log = structlog.get_logger("cloister.node")
_AT_A_TIME = 8
"""Disks that are closed, or memory that is saved: half of the threads, so that slow ones delay no kill and no freeze of others."""


@dataclass(frozen=True)
class PausingParts:
    """The parts of the node that a pause or a resume needs."""

    live: LiveSandboxes
    creator: Creator
    admission: Admission
    journal: Journal
    sampler: Sampler
    events: SandboxEvents
    threads: WorkerThreads


def close_sandbox(sandbox: RuntimeSandbox) -> tuple[dict[str, Any], bool]:
    """End its processes and keep its disk. Gives the runtime's state of what is left, and whether the disk is stored as it was.

    Runs in: a worker thread. Raises: RuntimeFailedError: its processes do not end.
    """
    sandbox.kill()
    try:
        sandbox.keep_disk()
    except (CloisterError, OSError):  # the disk stays; a start on it checks it
        _log.exception("sandbox.disk_not_stored")
        return sandbox.state(), False
    return sandbox.state(), True


def as_files(record: SandboxRecord) -> SandboxRecord:
    """The record of a paused sandbox of which only the files are kept."""
    assert record.pause is not None
    return replace(record, pause=replace(record.pause, kind=PauseKind.FILES))


def image_in(directory: Path) -> Path:
    """The image of a sandbox's memory in the sandbox's own directory."""
    return directory / "memory"


def remove_image(directory: Path) -> None:
    """Remove the image, if there is one, and an unfinished one. Only the supervisor and the dumper write in them (I2)."""
    for path in directory.glob("memory*"):
        shutil.rmtree(path, ignore_errors=True)


def _set_image_aside(directory: Path) -> list[Path]:
    """Rename the image of a sandbox that has gone on from it. The next one gets its name, whether this is removed then or not."""
    found = [path for path in directory.glob("memory*") if path.suffix != ".gone"]  # those are being removed
    return [path.rename(directory / f"{path.name}.{secrets.token_hex(4)}.gone") for path in found]


def _save(live: LiveSandbox, directory: Path) -> None:
    """Runs in: a worker thread.

    While a new agent takes its first kernel over, a credential is on its way between them, which cannot be saved: try once more then.
    """
    remove_image(directory)
    try:
        live.sandbox.checkpoint(image_in(directory))
    except BrokenSandboxError:
        raise
    except RuntimeFailedError as error:
        if live.ending is not None or live.sandbox.has_ended():
            raise
        _log.info("memory.not_saved_yet", sandbox_id=live.record.sandbox_id, error=str(error))
        _run_for_a_moment(live)
        remove_image(directory)
        live.sandbox.checkpoint(image_in(directory))


def _run_for_a_moment(live: LiveSandbox) -> None:
    """Let a frozen sandbox run until its agent answers. Raises: BrokenSandboxError: it runs on, as it cannot be frozen again."""
    live.sandbox.thaw()
    announce(live.record, live.sandbox, Standstill.MEMORY)
    try:
        live.sandbox.freeze()
    except (CloisterError, OSError) as error:
        raise BrokenSandboxError(f"it was to run for a moment, and does not stand still again: {error}") from error
    if live.ending is not None:  # as after every freeze: a kill has thawed it before
        live.sandbox.thaw()
        raise SandboxNotFoundError(f"sandbox {live.record.sandbox_id} has ended")


class KeptDisks:
    """The sandboxes of a node of which only the disk is kept."""

    def __init__(self, parts: PausingParts) -> None:
        self._live = parts.live
        self._creator = parts.creator
        self._journal = parts.journal
        self._sampler = parts.sampler
        self._events = parts.events
        self._threads = parts.threads
        self._places = asyncio.Semaphore(_AT_A_TIME)
        self._removals = BackgroundTasks()

    def check(self, live: LiveSandbox) -> None:
        """Whether it can be started again later. Runs in: a worker thread. Raises: InvalidRequestError, RuntimeFailedError, OSError."""
        live.sandbox.capabilities.require(live.record.runtime, "keep_disk")
        directory = self._journal.directory_of(live.record.sandbox_id)
        read_origin(directory)
        sync_origin(directory)

    async def save_memory(self, live: LiveSandbox) -> None:
        """Save the memory of a frozen sandbox beside its disk. Raises: as :meth:`RuntimeSandbox.checkpoint`, InvalidRequestError."""
        live.sandbox.capabilities.require(live.record.runtime, "checkpoint", "keep_disk")
        async with self._places:
            self._live.find_any(live.record.sandbox_id)
            await self._threads.run(partial(_save, live, self._journal.directory_of(live.record.sandbox_id)))

    async def drop_memory(self, live: LiveSandbox, files: SandboxRecord) -> None:
        """Remove the saved memory of a sandbox; ``files`` is its record afterwards. Raises: OSError."""

        def drop() -> None:
            self._journal.write(files, live.kept_state, is_durable=True)
            remove_image(self._journal.directory_of(files.sandbox_id))

        await self._threads.run(drop)

    def image_bytes(self, sandbox_id: str) -> int:
        """The size of a sandbox's saved memory; 0: there is none. Runs in: a worker thread: each of its processes has files."""
        image = image_in(self._journal.directory_of(sandbox_id))
        return sum(path.lstat().st_size for path in image.iterdir()) if image.is_dir() else 0

    async def close(self, live: LiveSandbox, closing: SandboxRecord, closed: SandboxRecord) -> SandboxRecord:
        """End the processes of a sandbox and keep its disk. ``closing`` and ``closed`` are its records before and after.

        Gives ``closed``, without its saved memory if the disk is not as it was saved with.
        Raises: InvalidRequestError, RuntimeFailedError, OSError: it goes on as it was, as long as no process was killed.
        """
        sandbox = live.sandbox

        def begin() -> None:
            self.check(live)
            self._journal.write(closing, sandbox.state(), is_durable=True)

        await self._threads.run(begin)
        await self._sampler.let_go(closing.sandbox_id)
        async with self._places:
            return await self._close_alone(live, closing, closed)

    async def _close_alone(self, live: LiveSandbox, closing: SandboxRecord, closed: SandboxRecord) -> SandboxRecord:
        """See :meth:`close`. From here on no other task touches the processes."""
        if live.ending is not None:
            raise SandboxNotFoundError(f"sandbox {closing.sandbox_id} has ended")
        self._live.stop_watching(live)
        live.is_closing = True
        try:
            live.kept_state, closed = await self._threads.run(partial(self._close, live, closing, closed))
            live.held = None
        except (CloisterError, OSError) as error:
            self._live.begin_end(closing.sandbox_id, EndReason.CRASHED, f"its processes did not end when it was to be kept: {error}")
            raise
        finally:
            live.is_closing = False
        return closed

    def _close(self, live: LiveSandbox, closing: SandboxRecord, closed: SandboxRecord) -> tuple[dict[str, Any], SandboxRecord]:
        """Runs in: a worker thread."""
        sandbox = live.sandbox
        if closing.state is SandboxState.PAUSING:
            announce(closing, sandbox, Standstill.FILES)
        state, is_whole = close_sandbox(sandbox)
        if not is_whole:
            closed = as_files(closed)
        try:
            self._journal.write(closed, state, is_durable=True)
        except OSError:  # the entry says that it is being closed: a supervisor that starts completes that
            _log.exception("journal.not_written", sandbox_id=closed.sandbox_id)
        try:
            sandbox.release()
        except (CloisterError, OSError):  # the sweep removes the rest later
            _log.exception("sandbox.release_failed", sandbox_id=closed.sandbox_id)
        return state, closed

    async def start(self, live: LiveSandbox, paused: SandboxRecord, resuming: SandboxRecord) -> SandboxRecord:
        """Start a sandbox again on its disk, with its saved memory if it has some; gives its record.

        Its agent serves then, and its start command has had its time. ``paused`` and ``resuming`` are its records before and meanwhile.
        Raises: as :meth:`Creator.start_again`, with nothing left but what was there; SandboxNotFoundError: it is being ended, and whoever
        ends it removes what was started.
        """
        directory = self._journal.directory_of(resuming.sandbox_id)
        has_memory = paused.pause is not None and paused.pause.kind is PauseKind.CHECKPOINT
        image = image_in(directory) if has_memory else None
        await self._threads.run(lambda: self._journal.write(resuming, live.kept_state))
        try:
            live.held = await self._creator.start_again(resuming, partial(self._note_started, live, resuming), image)
        finally:
            live.started = None
        running = transition(resuming, SandboxState.RUNNING, pause=None, started_at=time.time())
        try:
            await self._wait_start(live)
            await self._threads.run(lambda: self._journal.write(running, live.sandbox.state()))
        except (CloisterError, OSError):
            if not has_memory:
                await self.close(live, resuming, paused)
                raise
            _log.exception("journal.not_written", sandbox_id=resuming.sandbox_id)  # it runs: a supervisor that starts finds that out
        await self._drop_image(directory)
        if live.ending is not None:
            raise SandboxNotFoundError(f"sandbox {resuming.sandbox_id} has ended")
        self._live.watch(live)
        return running

    async def _drop_image(self, directory: Path) -> None:
        """The removal takes as long as some restores do, and no client waits for it."""
        aside = await self._threads.run(partial(_set_image_aside, directory))
        for path in aside:
            self._removals.spawn(self._threads.run(partial(shutil.rmtree, path, ignore_errors=True)))

    def _note_started(self, live: LiveSandbox, resuming: SandboxRecord, state: dict[str, Any]) -> None:
        """There is a process: a kill ends it, and does not wait for the rest of the start. Runs in: a worker thread."""
        live.started = state["pid"], state["start_ticks"]
        self._journal.write(resuming, state)
        if live.ending is not None:
            raise RuntimeFailedError(f"sandbox {resuming.sandbox_id} was ended while it was being resumed")

    async def _wait_start(self, live: LiveSandbox) -> None:
        """A start command that fails is noted in the sandbox's log: its files must be in reach all the same."""
        sandbox_id = live.record.sandbox_id
        try:
            await self._creator.wait_start(live.sandbox)
        except StartFailedError as error:
            _log.warning("sandbox.start_failed", sandbox_id=sandbox_id, error=str(error))
            fields: dict[str, int | str] = {"error": str(error)}
            note = SandboxNote(sandbox_id=sandbox_id, at=time.time(), level="error", event="start.failed", fields=fields)
            self._events.sandbox_noted(note)
