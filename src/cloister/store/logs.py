"""Logs of sandboxes on disk: one file of JSON lines a sandbox and the half before it, each sandbox and the whole bounded.

::

    <data>/api/logs/<sandbox id>       lines, oldest first; becomes .old when it has grown to half of a sandbox's bound
    <data>/api/logs/<sandbox id>.old

Owns the files and their bounds; knows nothing of what a line means. Lines are buffered and written within half a second by one worker
thread, which does all the file work in order; a crash of the process loses no more than those. A full disk loses lines, not the process.
Invariant (I6): whatever is appended, at most ``total_bytes`` are used; the files that were written to least lately go first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import structlog

__all__ = ["LogEntry", "LogStore"]

_log = structlog.get_logger("cloister.store")
_T = TypeVar("_T")
_FLUSH_S = 0.5


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """One entry. ``at_ms`` grows from each entry of a sandbox to the next, so that it is a position too."""

    at_ms: int
    level: str
    """debug, info, warn or error."""
    logger: str
    """Who says it: ``api`` and ``node`` are the server's own, ``agent`` is the word of the sandbox."""
    event: str
    fields: dict[str, str] = field(default_factory=dict)

    def to_line(self) -> bytes:
        """As a line of a file; :meth:`from_line` reads it back."""
        return json.dumps([self.at_ms, self.level, self.logger, self.event, self.fields]).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> LogEntry:
        """The inverse of :meth:`to_line`. Raises: ValueError (a line that a crash cut off)."""
        at_ms, level, logger, event, fields = json.loads(line)
        return cls(at_ms=at_ms, level=level, logger=logger, event=event, fields=fields)


class LogStore:
    """The logs below ``directory``. Use :meth:`open`, then the rest from one event loop, then :meth:`close`."""

    def __init__(self, directory: Path, *, sandbox_bytes: int, total_bytes: int) -> None:
        self._directory = directory
        self._half_bytes = sandbox_bytes // 2
        self._total_bytes = total_bytes
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="logs")
        self._buffers: dict[str, list[bytes]] = {}
        self._flushing: asyncio.Task[None] | None = None
        # The worker thread's own: bytes on disk of each sandbox, the one written to least lately first.
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._used = 0

    async def open(self) -> None:
        """Make the directory and learn what is in it."""
        await self._in_thread(self._scan)

    async def close(self) -> None:
        """Write what is buffered."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        await self._write_buffers()
        self._pool.shutdown()

    def append(self, sandbox_id: str, entries: Iterable[LogEntry]) -> None:
        """Add entries; they are on disk within half a second and seen by :meth:`read` at once."""
        self._buffers.setdefault(sandbox_id, []).extend(entry.to_line() for entry in entries)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush_soon())

    async def read(self, sandbox_id: str) -> list[LogEntry]:
        """All that is kept of a sandbox's log, oldest first."""
        await self._write_buffers()
        return await self._in_thread(lambda: self._read(sandbox_id))

    async def prune(self, *, written_before: float, keep: Callable[[str], bool]) -> None:
        """Remove the logs last written to before that time (epoch seconds), except of sandboxes that ``keep`` holds for."""
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
            except OSError as error:  # the disk is full, for one: lines are lost, sandboxes are not
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
