"""Logs of sandboxes on disk, as JSON lines: a current and an old file for each sandbox, bounded in size.

::

    <data>/api/logs/<sandbox id>       lines, oldest first; becomes .old when it has grown to half of a sandbox's bound
    <data>/api/logs/<sandbox id>.old

Owns the files and their bounds; does not interpret lines. Lines are buffered, and one worker thread writes them within half a second, in
order. A crash of the process loses at most the buffered lines. If the disk is full, lines are lost and the process goes on.
Invariant (I6): the logs use at most ``total_bytes``; the least recently written files are deleted first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog

from cloister.model.log import LogEntry

__all__ = ["LogStore"]

_log = structlog.get_logger("cloister.store")
_T = TypeVar("_T")
_FLUSH_S = 0.5


class LogStore:
    """The logs below ``directory``. Call :meth:`open` first and :meth:`close` last, and all methods on one event loop."""

    def __init__(self, directory: Path, *, sandbox_bytes: int, total_bytes: int) -> None:
        self._directory = directory
        self._half_bytes = sandbox_bytes // 2
        self._total_bytes = total_bytes
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="logs")
        self._buffers: dict[str, list[bytes]] = {}
        self._flushing: asyncio.Task[None] | None = None
        # Only the worker thread uses these: bytes on disk of each sandbox, the least recently written first.
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._used = 0

    async def open(self) -> None:
        """Make the directory and read the sizes of its files."""
        await self._in_thread(self._scan)

    async def close(self) -> None:
        """Write buffered lines and end the thread."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        await self._write_buffers()
        self._pool.shutdown()

    def append(self, sandbox_id: str, entries: Iterable[LogEntry]) -> None:
        """Add entries. They are on disk within half a second; :meth:`read` returns them at once."""
        self._buffers.setdefault(sandbox_id, []).extend(entry.to_line() for entry in entries)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush_soon())

    async def read(self, sandbox_id: str) -> list[LogEntry]:
        """A sandbox's stored entries, oldest first."""
        await self._write_buffers()
        return await self._in_thread(lambda: self._read(sandbox_id))

    async def prune(self, *, written_before: float, keep: Callable[[str], bool]) -> None:
        """Delete logs last written before that time (epoch seconds), except those of sandboxes for which ``keep`` is true."""
        names = await self._in_thread(lambda: list(self._sizes))
        kept = {name for name in names if keep(name)}
        await self._in_thread(lambda: self._prune(written_before, kept))

    async def used_bytes(self) -> int:
        """Bytes on disk now."""
        return await self._in_thread(lambda: self._used)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _flush_soon(self) -> None:
        await asyncio.sleep(_FLUSH_S)
        await self._write_buffers()

    async def _write_buffers(self) -> None:
        if self._buffers:
            buffers, self._buffers = self._buffers, {}
            await self._in_thread(lambda: self._write(buffers))

    # ---- in the worker thread ----

    def _paths(self, sandbox_id: str) -> tuple[Path, Path]:
        return self._directory / f"{sandbox_id}.old", self._directory / sandbox_id

    def _scan(self) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        found: dict[str, tuple[float, int]] = {}
        for path in self._directory.iterdir():
            sandbox_id, status = path.name.removesuffix(".old"), path.stat()
            before = found.get(sandbox_id, (0.0, 0))
            found[sandbox_id] = (max(before[0], status.st_mtime), before[1] + status.st_size)
        for sandbox_id, (_, size) in sorted(found.items(), key=lambda item: item[1][0]):
            self._account(sandbox_id, size)

    def _account(self, sandbox_id: str, size: int) -> None:
        self._used += size - self._sizes.pop(sandbox_id, 0)
        if size:
            self._sizes[sandbox_id] = size

    def _write(self, buffers: dict[str, list[bytes]]) -> None:
        for sandbox_id, lines in buffers.items():
            try:
                self._append(sandbox_id, lines)
            except OSError as error:  # such as a full disk: lines are lost, sandboxes go on
                _log.warning("logs.not_written", sandbox_id=sandbox_id, error=str(error))
        while self._used > self._total_bytes and self._sizes:
            self._remove(next(iter(self._sizes)))

    def _append(self, sandbox_id: str, lines: list[bytes]) -> None:
        old, new = self._paths(sandbox_id)
        size = new.stat().st_size if new.exists() else 0
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(new.open("ab"))
            for line in lines:
                if size + len(line) > self._half_bytes and size:
                    file.close()
                    new.rename(old)
                    file = stack.enter_context(new.open("ab"))
                    size = 0
                file.write(line)
                size += len(line)
        self._account(sandbox_id, sum(path.stat().st_size for path in (old, new) if path.exists()))

    def _read(self, sandbox_id: str) -> list[LogEntry]:
        entries = []
        for path in self._paths(sandbox_id):
            with contextlib.suppress(FileNotFoundError):
                for line in path.read_bytes().splitlines():
                    with contextlib.suppress(ValueError, TypeError):  # a crash cut the line off
                        entries.append(LogEntry.from_line(line))
        return entries

    def _prune(self, written_before: float, kept: set[str]) -> None:
        for sandbox_id in list(self._sizes):
            written_at = max((path.stat().st_mtime for path in self._paths(sandbox_id) if path.exists()), default=0.0)
            if sandbox_id not in kept and written_at < written_before:
                self._remove(sandbox_id)

    def _remove(self, sandbox_id: str) -> None:
        for path in self._paths(sandbox_id):
            path.unlink(missing_ok=True)
        self._account(sandbox_id, 0)
