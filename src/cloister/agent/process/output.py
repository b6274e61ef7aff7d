"""A process's output on its way to any number of readers.

Every reader has a place of its own in one log, so readers never wait for each other. What a reader has not taken yet is kept: the
newest 64 KiB in memory, older output in a file without a name on the sandbox's disk, up to a bound. At the bound (or when the disk is
full) the log is *full*: the process is no longer read, so it waits in its own write, until the slowest reader has caught up; a reader
that takes nothing for a while is cut off by the process (``process.py``), with an error that says so. Thus nothing is lost for a
reader that reads, memory stays flat, and no program waits for ever.

Without readers nothing but the newest 64 KiB is kept, for whoever connects next.

Places are counted in bytes of records: five for a record's head, then its data; the file is a row of such records.
"""

from __future__ import annotations

import asyncio
import os
import struct
import tempfile
from collections import deque
from collections.abc import Callable
from typing import IO

__all__ = ["PTY", "STDERR", "STDOUT", "OutputLog", "Reader"]

STDOUT, STDERR, PTY = 1, 2, 3
_HEAD = struct.Struct(">BI")
_TAIL_BYTES = 64 << 10
_CHUNK_OVERHEAD = 120
_TAKE_BYTES = 64 << 10

Chunk = tuple[int, bytes]
"""(kind, data)"""


class OutputLog:
    """The output of one process. ``on_room`` is called when a full log is no longer full."""

    def __init__(self, max_spool_bytes: int, on_room: Callable[[], None]) -> None:
        self._max_spool_bytes = max_spool_bytes
        self._on_room = on_room
        self._chunks: deque[tuple[int, int, bytes]] = deque()
        self._memory_bytes = 0
        self._end = 0
        self._spool: IO[bytes] | None = None
        self._spool_start = 0
        self._spool_bytes = 0
        self._disk_full = False
        self._was_full = False
        self._readers: set[Reader] = set()
        self._unread_from = 0
        self._dropped_bytes = 0
        self.finished_at: int | None = None

    @property
    def is_full(self) -> bool:
        """Whether no more should be read from the process for now."""
        return self._disk_full or self._spool_bytes >= self._max_spool_bytes

    def append(self, kind: int, data: bytes) -> None:
        """Add what the process has written."""
        self._chunks.append((self._end, kind, data))
        self._end += _HEAD.size + len(data)
        self._memory_bytes += len(data) + _CHUNK_OVERHEAD
        self._shrink_memory()
        for reader in self._readers:
            reader.wake()

    def finish(self) -> None:
        """Readers end when they have read what is here now."""
        self.finished_at = self._end
        for reader in self._readers:
            reader.wake()

    def attach(self) -> Reader:
        """A new reader. It begins with what comes from now on; when nobody was reading, with what is kept of what nobody has read;
        after the end, with all that is kept.
        """
        start, missed_bytes = self._end, 0
        if self.finished_at is not None:
            start = self._memory_start()
        elif not self._readers:
            start, missed_bytes = max(self._unread_from, self._memory_start()), self._dropped_bytes
            self._dropped_bytes = 0
        reader = Reader(self, start, missed_bytes)
        self._readers.add(reader)
        return reader

    def stalled_readers(self, places: dict[Reader, int]) -> list[Reader]:
        """Of the readers, those who hold up the process and still are at ``places``."""
        return [reader for reader, place in places.items() if reader in self._readers and reader.place == place < self._memory_start()]

    def places(self) -> dict[Reader, int]:
        """Where each reader is now."""
        return {reader: reader.place for reader in self._readers}

    def take(self, reader: Reader) -> list[Chunk]:
        """The next output for ``reader``, of about 64 KiB at most; empty: there is none yet. Neighbours of one kind are joined."""
        if reader.place < self._memory_start():
            found, place = self._from_spool(reader.place)
        else:
            found, place = self._from_memory(reader.place)
        reader.place = place
        self._after_move()
        return found

    def detach(self, reader: Reader) -> None:
        """Forget a reader."""
        self._readers.discard(reader)
        if not self._readers:
            self._unread_from = reader.place
            self._dropped_bytes = max(0, self._memory_start() - reader.place)
            self._drop_spool()
        self._after_move()

    def _memory_start(self) -> int:
        return self._chunks[0][0] if self._chunks else self._end

    def _after_move(self) -> None:
        """The slowest reader may have left the spool: then it is emptied, and the process may go on."""
        if self._spool_bytes and not self._is_needed(self._spool_start + self._spool_bytes - 1):
            self._drop_spool()
        if self._disk_full:
            self._disk_full = False
            self._shrink_memory()
        if self._was_full and not self.is_full:
            self._was_full = False
            self._on_room()

    def _is_needed(self, place: int) -> bool:
        return any(reader.place <= place for reader in self._readers)

    def _shrink_memory(self) -> None:
        while self._memory_bytes > _TAIL_BYTES and len(self._chunks) > 1:
            place, kind, data = self._chunks[0]
            if self._is_needed(place):
                if not self._spill(place, kind, data):
                    break
            elif not self._readers and place >= self._unread_from:
                self._dropped_bytes += len(data)
            self._chunks.popleft()
            self._memory_bytes -= len(data) + _CHUNK_OVERHEAD
        self._was_full |= self.is_full

    def _spill(self, place: int, kind: int, data: bytes) -> bool:
        """Move a chunk to the file; False: the disk has no room, and the chunk stays."""
        record = memoryview(_HEAD.pack(kind, len(data)) + data)
        try:
            if self._spool is None:
                self._spool = tempfile.TemporaryFile(dir=_spool_directory(), buffering=0)  # noqa: SIM115  # closed by _drop_spool
            if not self._spool_bytes:
                self._spool_start = place
            done = 0
            while done < len(record):
                done += os.pwrite(self._spool.fileno(), record[done:], self._spool_bytes + done)
        except OSError:
            self._disk_full = True
            return False
        self._spool_bytes += len(record)
        return True

    def _drop_spool(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        self._spool_bytes = 0

    def _from_spool(self, place: int) -> tuple[list[Chunk], int]:
        assert self._spool is not None, "a reader is behind the memory only while there is a spool"
        raw = os.pread(self._spool.fileno(), 2 * _TAKE_BYTES + _HEAD.size, place - self._spool_start)
        found: list[Chunk] = []
        at = 0
        while at + _HEAD.size <= len(raw) and at < _TAKE_BYTES:
            kind, size = _HEAD.unpack_from(raw, at)
            if at + _HEAD.size + size > len(raw):
                break
            found.append((kind, raw[at + _HEAD.size : at + _HEAD.size + size]))
            at += _HEAD.size + size
        return _joined(found), place + at

    def _from_memory(self, place: int) -> tuple[list[Chunk], int]:
        unread: list[Chunk] = []
        for position, kind, data in reversed(self._chunks):
            if position < place:
                break
            unread.append((kind, data))
        return _joined(unread[::-1]), self._end


class Reader:
    """One reader's place. ``missed_bytes``: what was written while nobody read, and is not kept any more."""

    def __init__(self, log: OutputLog, place: int, missed_bytes: int) -> None:
        self._log = log
        self._more = asyncio.Event()
        self.place = place
        self.missed_bytes = missed_bytes
        self.on_cut: Callable[[], None] = lambda: None

    async def next(self) -> list[Chunk]:
        """The next output, as soon as there is any; empty: that was all."""
        while True:
            self._more.clear()
            if self._log.finished_at is not None and self.place >= self._log.finished_at:
                return []
            if found := self._log.take(self):
                return found
            await self._more.wait()

    def wake(self) -> None:
        """There is news."""
        self._more.set()

    def cut(self) -> None:
        """End the reader from outside: it holds up the process."""
        self.on_cut()

    def close(self) -> None:
        """The reader leaves."""
        self._log.detach(self)


def _joined(chunks: list[Chunk]) -> list[Chunk]:
    """Neighbours of one kind as one, as they would have come through a pipe that was read a little later."""
    groups: list[tuple[int, list[bytes]]] = []
    for kind, data in chunks:
        if groups and groups[-1][0] == kind:
            groups[-1][1].append(data)
        else:
            groups.append((kind, [data]))
    return [(kind, parts[0] if len(parts) == 1 else b"".join(parts)) for kind, parts in groups]


def _spool_directory() -> str:
    return "/var/tmp" if os.path.isdir("/var/tmp") else "/"  # noqa: S108, PTH112  # the file has no name; the disk is what counts
