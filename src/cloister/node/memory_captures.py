"""Captures with memory: a directory of this node for each build that has the memory, the processes and the disk of a sandbox.

::

    <data>/node/captures/<build id>/memory/        the image of memory and processes
    <data>/node/captures/<build id>/disk.*         the disk as it was then, closed; the runtime's
    <data>/node/captures/<build id>/original.json  {"access_token", "runtime"}: the agent answers to no other token
    <data>/node/captures/<build id>.tmp/           one that is being taken

It is beside the disks of sandboxes, so that the file system may share blocks. It has its name before the store has the record of its build,
and is removed when that is dropped. The sandbox stands still while memory and disk are saved, and goes on whatever happens: the next
supervisor thaws it, because its record says that it runs. Runs in: supervisor, in worker threads. Invariants: I2, I8.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from cloister.disks.space import DiskSpace
from cloister.errors import RuntimeFailedError, UnavailableError
from cloister.ids import is_build_id
from cloister.linux.files import make_directory, sync_path, write_whole
from cloister.model.sandbox import SandboxRecord
from cloister.model.secret import reveal
from cloister.node.announcing import announce
from cloister.protocol.pausing import Standstill
from cloister.runtime.base import BrokenSandboxError, RuntimeSandbox
from cloister.runtime.registry import Runtimes

__all__ = ["WAY_OUT", "MemoryCapture", "MemoryCaptures"]

_log = structlog.get_logger("cloister.node")
_IMAGE, _ORIGINAL, _UNFINISHED = "memory", "original.json", ".tmp"
_ATTEMPTS = 5
WAY_OUT = "create a sandbox of the template or of a snapshot of files, or take this snapshot again"


@dataclass(frozen=True)
class MemoryCapture:
    """One that is whole."""

    directory: Path
    original_token: str | None = field(repr=False)
    runtime: str
    """The runtime of the captured sandbox, which alone can go on from it."""

    @property
    def image(self) -> Path:
        """The image of memory and processes."""
        return self.directory / _IMAGE

    @property
    def image_bytes(self) -> int:
        """The size of the image; about as much memory does a sandbox take that goes on from it."""
        return sum(path.lstat().st_size for path in self.image.iterdir())

    @property
    def disk_bytes(self) -> int:
        """What the disk takes on the host's."""
        return sum(path.lstat().st_blocks * 512 for path in self.directory.glob("disk.*"))

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """An image that cannot be restored here has another way out than that of a paused sandbox. Raises: UnavailableError."""
        try:
            yield
        except UnavailableError as error:
            raise UnavailableError(error.message, hint=WAY_OUT) from error


class MemoryCaptures:
    """Those of one node. Thread-safe; of one sandbox one is taken at a time."""

    def __init__(self, directory: Path, runtimes: Runtimes, space: DiskSpace) -> None:
        self._directory = directory
        self._runtimes = runtimes
        self._space = space

    def sweep(self, is_known: Callable[[str], bool]) -> None:
        """At the start: remove those of builds that are not known, and unfinished ones."""
        for path in self._directory.glob("*"):
            if not is_known(path.name):
                shutil.rmtree(path, ignore_errors=True)

    def take(self, record: SandboxRecord, sandbox: RuntimeSandbox, build_id: str, *, is_durable: bool = True) -> None:
        """Capture a running sandbox, which stands still for a moment. ``is_durable``: the capture outlives the host.

        Raises: ConflictError (it has state that cannot be saved), NoCapacityError, UnavailableError (no room), RuntimeFailedError,
        DeadlineError, IsolationError, OSError. The sandbox goes on, and nothing else is left.
        """
        began, used = time.monotonic(), sandbox.usage()
        make_directory(self._directory)
        unfinished = self._directory / f"{build_id}{_UNFINISHED}"
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            make_directory(unfinished)
            token = reveal(record.access_token)
            write_whole(unfinished / _ORIGINAL, json.dumps({"access_token": token, "runtime": record.runtime}), is_durable=True)
            with self._space.claim(self._directory, used.mem_used_bytes + used.disk_used_bytes):
                sandbox.write_disk()
                announce(record, sandbox, Standstill.COPY)
                try:
                    size, frozen_s = _save(record.sandbox_id, sandbox, unfinished)
                finally:
                    announce(record, sandbox, Standstill.OVER)
            if is_durable:
                for path in (*(unfinished / _IMAGE).iterdir(), unfinished / _IMAGE, unfinished):
                    sync_path(path)
            self._runtimes.find(record.runtime).close_copy(unfinished)
            unfinished.rename(self._directory / build_id)
            if is_durable:
                sync_path(self._directory)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        seconds = round(time.monotonic() - began, 3)
        _log.info("memory.captured", sandbox_id=record.sandbox_id, build_id=build_id, seconds=seconds, frozen_s=frozen_s, bytes=size)

    def find(self, build_id: str) -> MemoryCapture:
        """That of a build. Raises: UnavailableError: it is not on this node."""
        directory = self._directory / build_id
        try:
            original = json.loads((directory / _ORIGINAL).read_text())
            token, runtime = original["access_token"], original.get("runtime", "namespace")  # absent: of a release with one runtime
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnavailableError(f"the saved memory of build {build_id} is not on this node", hint=WAY_OUT) from error
        return MemoryCapture(directory, token, runtime)

    def remove(self, build_id: str) -> None:
        """Remove that of a build, if it has one."""
        if is_build_id(build_id):
            shutil.rmtree(self._directory / build_id, ignore_errors=True)


def _save(sandbox_id: str, sandbox: RuntimeSandbox, directory: Path) -> tuple[int, float]:
    """Save memory and disk; gives the bytes of memory, and how long the sandbox stood still.

    While a new agent takes its first kernel over, a credential is on its way between them, which cannot be saved: try again then.
    """
    for left in range(_ATTEMPTS - 1, -1, -1):
        with sandbox.frozen():
            began = time.monotonic()
            try:
                size = sandbox.checkpoint(directory / _IMAGE, is_durable=False)
            except RuntimeFailedError as error:
                if not left or isinstance(error, BrokenSandboxError) or sandbox.has_ended():
                    raise
                _log.info("memory.not_captured_yet", sandbox_id=sandbox_id, error=str(error))
                continue
            sandbox.copy_disk(directory)
            return size, round(time.monotonic() - began, 3)
    raise AssertionError
