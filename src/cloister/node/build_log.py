"""The log of one build: a file of JSON lines that only grows, within bounds, and is read by windows.

An entry's index is its line's number and never changes. Foreign text comes in here, so what is kept is plain: one line an entry,
bounded, without the control characters and escape sequences by which a program could tell a reader's terminal what to do.
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

__all__ = ["LogBounds", "LogFile", "StepTally", "plain_lines"]

_log = structlog.get_logger("cloister.node.builds")
_LEVELS = ("debug", "info", "warn", "error")
_FULL = "the log is full: what follows is left out"
_FIELDS = ("at", "level", "message", "step")
_MARK_EVERY = 256
_MAX_WINDOW_BYTES = 4 << 20
"""Of one answer; its JSON in a message is up to three times as long."""
_ESCAPE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC and the other strings: titles, links
    r"|\x1b[ -/]*[0-~]?"
)
_DONE = re.compile(r"\[\d+/\d+\] done in ")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class LogBounds:
    """How large one log may become."""

    size_bytes: int = 16 << 20
    lines: int = 50_000
    line_bytes: int = 8192


class LogFile:
    """A :class:`~cloister.template.interfaces.BuildLog` on disk. Thread-safe; takes up what is there, without a last line that is torn."""

    def __init__(self, path: Path, bounds: LogBounds | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._bounds = bounds or LogBounds()
        self._clock = clock
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._is_indexed = False
        self._full = False
        self._marks: list[int] = []
        """Where each so many entries begin."""
        self._total = 0
        self._size = 0

    def add(self, level: str, message: str, step: str | None = None) -> None:
        """See :class:`~cloister.template.interfaces.BuildLog`. What is beyond the bounds is left out, and one entry says so."""
        if self._full:  # a flood goes on: nothing of it is looked at, in a process that has everybody's sandboxes to look after
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
        """One entry of the server's own, which is kept even when the log is full."""
        rows = [_row(self._clock(), level, line, step) for line in plain_lines(message, self._bounds.line_bytes)[:1]]
        with self._lock:
            self._index()
            self._append(rows)

    def read(self, offset: int, limit: int) -> tuple[tuple[BuildLogEntry, ...], int]:
        """Entries from index ``offset`` on, at most ``limit`` and not too many bytes of them, and how many entries there are."""
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
        """How long the file is."""
        with contextlib.suppress(FileNotFoundError):
            return self._path.stat().st_size
        return 0

    def close(self) -> None:
        """Close the file; another entry opens it again."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _index(self) -> None:
        """Count what is there, once, and cut off the last line if a crash has torn it."""
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
        except OSError as error:  # the disk is full, for one: the build goes on without a log, and its end says what is the matter
            _log.warning("build.log_failed", path=str(self._path), error=str(error))
            self._full = True
            with contextlib.suppress(OSError):
                os.truncate(self._path, self._size)
            return
        for row in rows:
            self._count(len(row))


class StepTally:
    """Counts the steps that a build makes or finds, by its log, which it passes on.

    A program's output can neither begin a step's entries nor be at level ``debug``, so it counts for nothing.
    """

    def __init__(self, log: LogFile) -> None:
        self._log = log
        self._begun: set[str] = set()
        self._made: set[str] = set()

    def add(self, level: str, message: str, step: str | None = None) -> None:
        """See :class:`~cloister.template.interfaces.BuildLog`."""
        if step is not None and step.isdecimal():
            self._begun.add(step)
            if level == "debug" and _DONE.match(message):
                self._made.add(step)
        self._log.add(level, message, step)

    def counts(self, failed_step: str | None) -> dict[str, int]:
        """Steps that were ``built`` and ``cached``; the one that failed is neither."""
        return {"built": len(self._made), "cached": len(self._begun - self._made - {failed_step})}


def plain_lines(message: str, longest: int) -> list[str]:
    """The lines of a message as they are kept: what a terminal would show in the end, each of at most ``longest`` bytes and some."""
    text = _ESCAPE.sub("", message.replace("\r\n", "\n"))
    lines = text.removesuffix("\n").split("\n")
    return [_shortened(_CONTROL.sub("", _last_overwritten(line)), longest) for line in lines]


def _last_overwritten(line: str) -> str:
    """A progress bar draws itself over what it drew before."""
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
    row = (round(at, 3), level if level in _LEVELS else "info", message, step)
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
