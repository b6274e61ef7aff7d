"""The log of ends: why each sandbox ended. An api process that was away asks for the true reasons (I10).

Owns ``<data>/node/ended.jsonl``: one JSON object a line, the newest last. An end is stored when it is decided, before the first process is
killed. When the supervisor dies in between, the next one finds the end here and completes it. The first reason of a sandbox counts.
Thread-safe.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import structlog

from cloister.linux.files import write_whole
from cloister.model.node import EndedSandbox
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxState

__all__ = ["KEPT", "EndLog", "end_of", "why_gone"]

_log = structlog.get_logger("cloister.node")
KEPT = 10_000
"""More than sandboxes can live at a time: a returning api process asks for all sandboxes that it believes alive."""
_MESSAGES = {
    EndReason.EXPIRED: "its lifetime was over",
    EndReason.KILLED: "it was killed",
    EndReason.CRASHED: "its first process ended",
    EndReason.STOPPED: "the server was stopped",
    EndReason.NO_SPACE: "this sandbox had more than its promised disk and was growing fastest",
    EndReason.KERNEL_MEMORY: "it held too many file locks, or too much in its sockets",
    EndReason.PAUSED_TOO_LONG: "it was paused for longer than the server's setting paused_retention_s allows",
}


class EndLog:
    """The ends in the file ``path``. Without a path they are in memory only."""

    def __init__(self, path: Path | None = None, kept: int = KEPT) -> None:
        self._path = path
        self._kept = kept
        self._lock = threading.Lock()
        """Guards the memory. Never held during a write, because the event loop calls :meth:`decide` and :meth:`find`."""
        self._file_lock = threading.Lock()
        self._ends: OrderedDict[str, EndedSandbox] = OrderedDict()
        self._lines = 0
        self._load()

    def decide(self, ended: EndedSandbox) -> EndedSandbox:
        """Remember an end; returns the one that counts. It is on disk after :meth:`store` only."""
        with self._lock:
            decided = self._ends.setdefault(ended.sandbox_id, ended)
            while len(self._ends) > self._kept:
                self._ends.popitem(last=False)
            return decided

    def store(self, ended: EndedSandbox) -> None:
        """Append an end to the file. Blocks. When the disk is full this is logged, and the sandbox ends all the same."""
        if self._path is None:
            return
        line = json.dumps(ended.to_json()) + "\n"
        try:
            with self._file_lock:
                if self._lines >= 2 * self._kept:
                    self._rewrite(self._path)
                self._append(self._path, line)
        except OSError as error:
            _log.exception("end.not_stored", sandbox_id=ended.sandbox_id, error=str(error))

    def find(self, sandbox_ids: Iterable[str]) -> list[EndedSandbox]:
        """The known ends of these sandboxes."""
        with self._lock:
            return [self._ends[one] for one in sandbox_ids if one in self._ends]

    def sync(self) -> None:
        """Write the file through to the disk, at the end of a clean stop. Blocks."""
        if self._path is not None and self._path.exists():
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _append(self, path: Path, line: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        data = line.encode()
        try:
            written = os.write(descriptor, data)
            if written < len(data):  # half a line would make the next one unreadable too
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        finally:
            os.close(descriptor)
        self._lines += 1

    def _rewrite(self, path: Path) -> None:
        with self._lock:
            ends = list(self._ends.values())
        write_whole(path, "".join(json.dumps(ended.to_json()) + "\n" for ended in ends))
        self._lines = len(ends)

    def _load(self) -> None:
        if self._path is None or not self._path.exists():
            return
        unreadable = 0
        for line in self._path.read_bytes().splitlines():
            try:
                ended = EndedSandbox.from_json(json.loads(line))
            except (ValueError, KeyError, TypeError):  # a crash or a full disk cut the line off
                unreadable += 1
                continue
            self._ends.setdefault(ended.sandbox_id, ended)
        while len(self._ends) > self._kept:
            self._ends.popitem(last=False)
        if unreadable:
            _log.warning("ends.unreadable", lines=unreadable)
        try:
            self._rewrite(self._path)
        except OSError as error:
            _log.warning("ends.not_rewritten", error=str(error))


def end_of(sandbox_id: str, reason: EndReason, message: str = "") -> EndedSandbox:
    """An end that is decided now. Without a ``message`` it gets its reason's."""
    return EndedSandbox(sandbox_id=sandbox_id, reason=reason, message=message or _MESSAGES.get(reason, ""), at=time.time())


def why_gone(record: SandboxRecord, now: float | None = None) -> tuple[EndReason, str]:
    """Reason and message for a sandbox that should run, and that a starting supervisor finds dead (at ``now``)."""
    at = time.time() if now is None else now
    if record.state is SandboxState.RUNNING and record.end_at <= at:
        return EndReason.EXPIRED, _MESSAGES[EndReason.EXPIRED]
    if record.started_at < at - time.clock_gettime(time.CLOCK_BOOTTIME):
        return EndReason.CRASHED, "the host was restarted"
    return EndReason.CRASHED, "it ended while the node supervisor was away"
