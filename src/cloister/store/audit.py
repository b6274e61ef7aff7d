"""The audit log on disk: for each team, and for the operator, a chain of records in append-only files.

::

    <data>/api/audit/<owner>/<number>.jsonl   records from that number on, one JSON object a line
    <data>/api/audit/<owner>/head             numbers of the oldest and the last record, and the digest of the last line

Each record has the SHA-256 of the line before it, and ``head`` has that of the last line: so a changed, removed or inserted line is found
by :meth:`AuditFiles.check`. Processes write in turns, by a lock on ``head``. All methods block.

Invariant (I6): all files together use ``total_bytes`` and a small rest at most. Above it, the oldest file of the owner with the most bytes
is deleted, so a team that makes many records loses its own alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import heapq
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cloister.model.audit import AuditQuery, AuditRecord, StoredRecord

__all__ = ["AuditFiles", "AuditPage"]

_OWNER = re.compile(r"[a-z0-9_-]{1,64}\Z")
_SEGMENT = re.compile(r"(\d{12})\.jsonl\Z")
_NONE = "0" * 64
"""The digest before the first record."""
_SEGMENTS = 64
_SEGMENT_BYTES = (16 << 10, 1 << 20)
_LINE_BYTES = 4096
"""No line is longer."""
_BLOCK_BYTES = 16 << 10
_SCAN_BYTES = 8 << 20
"""Bytes of records that one page looks at; then it ends, and the next page goes on."""


@dataclass(frozen=True)
class _Head:
    oldest: int = 1
    last: int = 0
    digest: str = _NONE


@dataclass(frozen=True)
class AuditPage:
    """Records, latest first. ``following`` is the position at which the next page begins; None: there are no more."""

    records: list[StoredRecord]
    following: tuple[float, str, int] | None


class AuditFiles:
    """The chains below ``directory``, which is made when it is first written to."""

    def __init__(self, directory: Path, *, total_bytes: int) -> None:
        self._directory = directory
        self._total_bytes = total_bytes
        least, most = _SEGMENT_BYTES
        self._segment_bytes = max(least, min(most, total_bytes // _SEGMENTS))
        self._uncounted = self._segment_bytes
        """Bytes written since all files were counted."""

    def append(self, owner: str, records: Sequence[AuditRecord]) -> None:
        """Append records to an owner's chain, all or none. Raises: OSError: such as a full disk."""
        if self._uncounted >= self._segment_bytes:
            self._uncounted = 0
            self._keep_bound()  # first, because a failure after the records are written would have them written again
        self._append(owner, records)

    def owners(self) -> list[str]:
        """The owners that have records."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(entry.name for entry in os.scandir(self._directory) if _OWNER.match(entry.name) and entry.is_dir())
        return []

    def read(self, query: AuditQuery) -> AuditPage:
        """A page of records. Lines that are no records are left out: :meth:`check` reports them."""
        owners = [owner for owner in self.owners() if query.owner in (None, owner)]
        found: list[StoredRecord] = []
        looked_at = 0
        for stored in heapq.merge(*(self._backwards(owner, query) for owner in owners), key=lambda one: one.position, reverse=True):
            if query.accepts(stored.record):
                found.append(stored)
            looked_at += len(stored.to_line())
            if len(found) >= query.limit or looked_at >= _SCAN_BYTES:
                return AuditPage(found, stored.position)
        return AuditPage(found, None)

    def lines(self, owner: str) -> Iterator[tuple[str, bytes]]:
        """All lines of an owner, oldest first, each with the name of its file."""
        for name in self._segments(owner):
            with contextlib.suppress(FileNotFoundError):  # the writer has just deleted it
                for line in self._read(owner, name).splitlines(keepends=True):
                    yield name, line

    def after(self, owner: str, number: int) -> Iterator[StoredRecord]:
        """The owner's records with greater numbers, oldest first. Lines that are no records are left out."""
        if (head := self.head(owner)) is not None and head[1] <= number:
            return
        segments = self._segments(owner)
        for name, following in zip(segments, [*segments[1:], None], strict=True):
            if following is not None and _first_of(following) <= number + 1:
                continue
            with contextlib.suppress(FileNotFoundError):
                for line in self._read(owner, name).splitlines(keepends=True):
                    with contextlib.suppress(ValueError):
                        stored = StoredRecord.from_line(owner, line)
                        if stored.number > number:
                            yield stored

    def head(self, owner: str) -> tuple[int, int, str] | None:
        """Numbers of the owner's oldest and last record, and the last digest, as the head has them; None: it has none, or it is damaged."""
        with contextlib.suppress(FileNotFoundError):
            head = _parse_head(self._read(owner, "head"))
            return None if head is None else (head.oldest, head.last, head.digest)
        return None

    # ---- writing ----

    def _append(self, owner: str, records: Sequence[AuditRecord]) -> None:
        if not _OWNER.match(owner):
            raise ValueError(f"{owner!r} is no owner of audit records")
        self._directory.mkdir(mode=0o700, exist_ok=True)
        (self._directory / owner).mkdir(mode=0o700, exist_ok=True)
        with self._locked(owner) as descriptor:
            head = self._last_state(owner, _parse_head(os.pread(descriptor, _LINE_BYTES, 0)) or _Head())
            lines = []
            for record in records:
                line = StoredRecord(owner, head.last + 1, head.digest, record).to_line()
                head = replace(head, last=head.last + 1, digest=hashlib.sha256(line).hexdigest())
                lines.append(line)
            self._write(owner, head.last - len(lines) + 1, b"".join(lines))
            _write_head(descriptor, head)

    def _last_state(self, owner: str, head: _Head) -> _Head:
        """The head, or the state after it that the files show: a crash came between the two writes."""
        segments = self._segments(owner)
        if segments:
            *_, last = [b"", *self._read(owner, segments[-1]).splitlines(keepends=True)]
            with contextlib.suppress(ValueError):
                stored = StoredRecord.from_line(owner, last)
                if stored.number > head.last:
                    return replace(head, last=stored.number, digest=hashlib.sha256(last).hexdigest())
        return head

    def _write(self, owner: str, first: int, data: bytes) -> None:
        """Append to the current file, or to a new one if that is full."""
        segments = self._segments(owner)
        size = (self._directory / owner / segments[-1]).stat().st_size if segments else 0
        name = segments[-1] if segments and size < self._segment_bytes else f"{first:012}.jsonl"
        descriptor = _open(self._directory / owner / name, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data  # a crash of the host cut the last line off; `check` reports it
            if os.write(descriptor, data) != len(data):
                os.ftruncate(descriptor, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
        self._uncounted += len(data)

    def _keep_bound(self) -> None:
        while True:
            sizes = {owner: self._sizes(owner) for owner in self.owners()}
            if sum(sum(own.values()) for own in sizes.values()) <= self._total_bytes:
                return
            owner = max(sizes, key=lambda one: sum(sizes[one].values()))
            with self._locked(owner) as descriptor:
                segments = self._segments(owner)
                if not segments:
                    return
                head = self._last_state(owner, _parse_head(os.pread(descriptor, _LINE_BYTES, 0)) or _Head())
                oldest = _first_of(segments[1]) if len(segments) > 1 else head.last + 1
                _write_head(descriptor, replace(head, oldest=oldest))  # first: records that a crash leaves are no damage, but a gap is
                (self._directory / owner / segments[0]).unlink()

    @contextlib.contextmanager
    def _locked(self, owner: str) -> Iterator[int]:
        """The head's descriptor, while no other process writes the owner's files."""
        descriptor = _open(self._directory / owner / "head", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    # ---- reading ----

    def _segments(self, owner: str) -> list[str]:
        return sorted(path.name for path in (self._directory / owner).iterdir() if _SEGMENT.match(path.name))

    def _sizes(self, owner: str) -> dict[str, int]:
        return {name: (self._directory / owner / name).stat().st_size for name in self._segments(owner)}

    def _read(self, owner: str, name: str) -> bytes:
        with os.fdopen(_open(self._directory / owner / name, os.O_RDONLY), "rb") as file:
            return file.read()

    def _lines_backwards(self, owner: str, name: str) -> Iterator[bytes]:
        """The lines of a file, the last one first. A block of it is in memory, and no descriptor: a page may be of many owners."""
        rest, end = b"", (self._directory / owner / name).stat().st_size
        while end:
            start = max(0, end - _BLOCK_BYTES)
            descriptor = _open(self._directory / owner / name, os.O_RDONLY)
            try:
                block = os.pread(descriptor, end - start, start)
            finally:
                os.close(descriptor)
            lines = (block + rest).splitlines(keepends=True)
            rest, end = (lines.pop(0) if start and lines else b""), start
            yield from reversed(lines)

    def _backwards(self, owner: str, query: AuditQuery) -> Iterator[StoredRecord]:
        """The owner's records below the position of the query, latest first. Below one of the owner's own, its number decides: times may
        be out of order, because processes write in turns and clocks are set back.
        """
        before = query.before[2] if query.before is not None and query.before[1] == owner else None
        for name in reversed(self._segments(owner)):
            if before is not None and _first_of(name) >= before:
                continue
            with contextlib.suppress(FileNotFoundError):
                if query.since is not None and (self._directory / owner / name).stat().st_mtime < query.since:
                    return
                for line in self._lines_backwards(owner, name):
                    with contextlib.suppress(ValueError):
                        stored = StoredRecord.from_line(owner, line)
                        if stored.number < before if before is not None else query.before is None or stored.position < query.before:
                            yield stored


def _first_of(name: str) -> int:
    return int(name.partition(".")[0])


def _open(path: Path, flags: int) -> int:
    """A descriptor of a regular file, which is made with mode 0600."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return descriptor


def _parse_head(data: bytes) -> _Head | None:
    try:
        oldest, last, digest = json.loads(data)
    except (ValueError, TypeError):
        return None
    return _Head(oldest, last, digest) if isinstance(oldest, int) and isinstance(last, int) and isinstance(digest, str) else None


def _write_head(descriptor: int, head: _Head) -> None:
    data = json.dumps([head.oldest, head.last, head.digest]).encode() + b"\n"
    os.pwrite(descriptor, data, 0)
    os.ftruncate(descriptor, len(data))
