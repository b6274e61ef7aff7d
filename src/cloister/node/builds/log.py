"""The log of one build: a bounded file of JSON lines that only grows. Readers get windows of it.

The index of an entry is the number of its line and never changes. Programs of clients write into the log, so each entry is one bounded line
without control characters and escape sequences, by which a program could steer a reader's terminal.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from cloister.model.build import BuildLogEntry
from cloister.protocol.events import LOG_LEVELS

__all__ = ["BuildLogFile", "BuildLogLimits", "StepCounter", "plain_lines"]

_log = structlog.get_logger("cloister.node.builds")
_FULL = "the log is full: what follows is left out"
_FIELDS = ("at", "level", "message", "step")
_MARK_EVERY = 256
_MAX_WINDOW_BYTES = 4 << 20
"""Of one answer. The JSON of a message is up to three times as long."""
_ESCAPE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC and the other strings: titles, links
    r"|\x1b[ -/]*[0-~]?"
)
_DONE = re.compile(r"\[\d+/\d+\] done in ")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class BuildLogLimits:
    """The largest size of one log."""

    size_bytes: int = 16 << 20
    lines: int = 50_000
    line_bytes: int = 8192


class BuildLogFile:
    """See :class:`~cloister.template.interfaces.BuildLog`. Thread-safe. Continues an existing file, without a torn last line."""

    def __init__(self, path: Path, bounds: BuildLogLimits | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._bounds = bounds or BuildLogLimits()
        self._clock = clock
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._is_indexed = False
        self._full = False
        self._marks: list[int] = []
        """The offset of every ``_MARK_EVERY``-th entry."""
        self._total = 0
        self._size = 0

    def add(self, level: str, message: str, step: str | None = None) -> None:
        """See :class:`BuildLog`. Entries beyond the bounds are left out, and one entry says so."""
        if self._full:  # a flood costs this process, which serves all sandboxes, nothing more
            return
        now = self._clock()
        rows = [_row(now, level, line, step) for line in plain_lines(message, self._bounds.line_bytes)]
        with self._lock:
            self._index()
            if self._full:
                return
            fits, size = 0, self._size
            for row in rows[: max(0, self._bounds.lines - self._total)]:
                size += len(row)
                if size > self._bounds.size_bytes:
                    break
                fits += 1
            self._append(rows[:fits])
            if fits < len(rows):
                self._full = True
                self._append([_row(now, "warn", _FULL, None)])

    def note(self, level: str, message: str, step: str | None = None) -> None:
        """Add one entry of the server's own. It is kept even when the log is full."""
        rows = [_row(self._clock(), level, line, step) for line in plain_lines(message, self._bounds.line_bytes)[:1]]
        with self._lock:
            self._index()
            self._append(rows)

    def read(self, offset: int, limit: int) -> tuple[tuple[BuildLogEntry, ...], int]:
        """Entries from index ``offset`` on, bounded by ``limit`` and by bytes, and the number of all entries."""
        with self._lock:
            self._index()
            total, size = self._total, self._size
            at = self._marks[offset // _MARK_EVERY] if offset < total else size
        found: list[BuildLogEntry] = []
        if limit > 0 and offset < total:
            with self._path.open("rb") as file:
                file.seek(at)
                window = 0
                for index, line in enumerate(file, offset - offset % _MARK_EVERY):
                    window += len(line) if index >= offset else 0
                    if index >= total or len(found) >= limit or (found and window > _MAX_WINDOW_BYTES):
                        break
                    if index >= offset:
                        found.append(BuildLogEntry(**dict(zip(_FIELDS, json.loads(line), strict=True))))
        return tuple(found), total

    @property
    def size_bytes(self) -> int:
        """The length of the file."""
        with contextlib.suppress(FileNotFoundError):
            return self._path.stat().st_size
        return 0

    def close(self) -> None:
        """Close the file. The next entry opens it again."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _index(self) -> None:
        """Count the entries on disk, once, and cut off a last line that a crash has torn."""
        if self._is_indexed:
            return
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    os.truncate(self._path, self._size)
                    break
                self._count(len(line))
        self._full = self._total > self._bounds.lines or self._size > self._bounds.size_bytes
        self._is_indexed = True

    def _count(self, length: int) -> None:
        if self._total % _MARK_EVERY == 0:
            self._marks.append(self._size)
        self._total += 1
        self._size += length

    def _append(self, rows: list[bytes]) -> None:
        if not rows:
            return
        try:
            if self._fd is None:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            data = b"".join(rows)
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:  # a full disk, say: the build goes on without a log, and its end names the cause
            _log.warning("build.log_failed", path=str(self._path), error=str(error))
            self._full = True
            with contextlib.suppress(OSError):
                os.truncate(self._path, self._size)
            return
        for row in rows:
            self._count(len(row))


class StepCounter:
    """Counts the built and the cached steps by the log entries that it passes on.

    Output of a program can neither begin a step's entries nor have the level ``debug``, so it cannot change the counts.
    """

    def __init__(self, log: BuildLogFile) -> None:
        self._log = log
        self._begun: set[str] = set()
        self._made: set[str] = set()

    def add(self, level: str, message: str, step: str | None = None) -> None:
        """See :class:`BuildLog`."""
        if step is not None and step.isdecimal():
            self._begun.add(step)
            if level == "debug" and _DONE.match(message):
                self._made.add(step)
        self._log.add(level, message, step)

    def counts(self, failed_step: str | None) -> dict[str, int]:
        """The numbers of steps ``built`` and ``cached``. The failed step counts as neither."""
        return {"built": len(self._made), "cached": len(self._begun - self._made - {failed_step})}


def plain_lines(message: str, longest: int) -> list[str]:
    """The lines of a message as the log keeps them: the text that a terminal would show, each line about ``longest`` bytes at most."""
    text = _ESCAPE.sub("", message.replace("\r\n", "\n"))
    lines = text.removesuffix("\n").split("\n")
    return [_shortened(_CONTROL.sub("", _last_overwritten(line)), longest) for line in lines]


def _last_overwritten(line: str) -> str:
    """The last state of a progress bar, which overwrites its own line."""
    return next((part for part in reversed(line.split("\r")) if part.strip()), "") if "\r" in line else line


def _shortened(line: str, longest: int) -> str:
    if len(line) * 4 <= longest:
        return line.encode(errors="replace").decode()
    data = line.encode(errors="replace")
    if len(data) <= longest:
        return data.decode()
    kept = data[:longest].decode(errors="ignore")
    return f"{kept}… ({len(data) - len(kept.encode())} more bytes)"


def _row(at: float, level: str, message: str, step: str | None) -> bytes:
    row = (round(at, 3), level if level in LOG_LEVELS else "info", message, step)
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
