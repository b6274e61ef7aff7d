"""A process's output, for any number of readers.

Every reader has its own position in one log, so readers never wait for each other. The log keeps output until every reader has it: the
newest 64 KiB in memory, older output in an unnamed file on the sandbox's disk, up to a bound. At the bound, or when the disk is full, the
log is *full*. The agent then stops reading from the process, which blocks in its own write until the slowest reader has caught up. The
process (``process.py``) cuts off a reader that takes nothing for a while, with an error that says so. So a reader that reads loses
nothing, memory stays bounded, and no program waits for ever.

Without readers the log keeps the newest output that no reader had, up to 1 MiB, for the next reader; where there are many processes, less
of each. A pause of the sandbox, or a broken connection, leaves a process without readers. Output counts as read when the reader asks for
more, so what a broken connection did not take is given to the next reader.

Positions are counted in bytes of records: five for a record's head, then its data; the file is a sequence of such records.
"""

from __future__ import annotations

import asyncio
import os
import struct
import tempfile
from collections import deque
from collections.abc import Callable
from typing import IO

from cloister.errors import UnavailableError

__all__ = ["PTY", "STDERR", "STDOUT", "UNREAD_BYTES", "OutputLog", "Reader"]

STDOUT, STDERR, PTY = 1, 2, 3
_HEAD = struct.Struct(">BI")
_TAIL_BYTES = 64 << 10
UNREAD_BYTES = 1 << 20
"""Bound of what is kept in memory without readers, at most."""
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
        self._end_unseen = False
        """Whether it has finished, and the next reader is the first to hear of it."""
        self.finished_at: int | None = None
        self.most_unread: Callable[[], int] = lambda: UNREAD_BYTES
        """Bound of what is kept in memory without readers now: many processes share the memory of one sandbox."""

    @property
    def is_full(self) -> bool:
        """Whether to stop reading from the process for now."""
        return self._disk_full or self._spool_bytes >= self._max_spool_bytes

    @property
    def kept_bytes(self) -> int:
        """What it keeps in memory."""
        return self._memory_bytes

    def append(self, kind: int, data: bytes) -> None:
        """Add output of the process."""
        self._chunks.append((self._end, kind, data))
        self._end += _HEAD.size + len(data)
        self._memory_bytes += len(data) + _CHUNK_OVERHEAD
        self._shrink_memory()
        for reader in self._readers:
            reader.wake()

    def finish(self) -> None:
        """Readers end when they have read what is here now."""
        self.finished_at = self._end
        self._end_unseen = not self._readers
        for reader in self._readers:
            reader.wake()

    def attach(self) -> Reader:
        """A new reader. It begins with new output. If there was no reader, it begins with the kept output that no reader had;
        after an end that a reader has seen, with all kept output.
        """
        start, missed_bytes = self._end, 0
        if self.finished_at is not None and not self._end_unseen:
            start = self._memory_start()
        elif not self._readers:
            start, missed_bytes = max(self._unread_from, self._memory_start()), self._dropped_bytes
            self._dropped_bytes, self._end_unseen = 0, False
        reader = Reader(self, start, missed_bytes)
        self._readers.add(reader)
        return reader

    def stalled_readers(self, places: dict[Reader, int]) -> list[Reader]:
        """The given readers that block the process and are still at ``places``."""
        return [reader for reader, place in places.items() if reader in self._readers and reader.done_to == place < self._memory_start()]

    def places(self) -> dict[Reader, int]:
        """Each reader's position, up to which it has read."""
        return {reader: reader.done_to for reader in self._readers}

    def release_readers(self, why: str) -> None:
        """End all readers, whose clients come back later: the next reader gets what these have not read."""
        for reader in tuple(self._readers):
            reader.release(why)

    def take(self, reader: Reader) -> list[Chunk]:
        """The next output for ``reader``, about 64 KiB at most; empty: none yet. Adjacent chunks of one kind are joined."""
        if reader.place < self._memory_start():
            found, place = self._from_spool(reader.place)
        else:
            found, place = self._from_memory(reader.place)
        reader.place = place
        return found

    def note_read(self, reader: Reader) -> None:
        """``reader`` has read all that it took."""
        reader.done_to = reader.place
        self._after_move()

    def detach(self, reader: Reader) -> None:
        """Forget a reader."""
        if reader not in self._readers:
            return
        self._readers.discard(reader)
        if not self._readers:
            self._unread_from = reader.done_to
            self._end_unseen = self.finished_at is not None and reader.done_to < self.finished_at
            self._dropped_bytes = max(0, self._memory_start() - reader.done_to)
            self._drop_spool()
        self._after_move()

    def _memory_start(self) -> int:
        return self._chunks[0][0] if self._chunks else self._end

    def _after_move(self) -> None:
        """If the slowest reader has left the file, empty it; the process may go on."""
        if self._spool_bytes and not self._is_needed(self._spool_start + self._spool_bytes - 1):
            self._drop_spool()
        if self._disk_full:
            self._disk_full = False
            self._shrink_memory()
        if self._was_full and not self.is_full:
            self._was_full = False
            self._on_room()

    def _is_needed(self, place: int) -> bool:
        return any(reader.done_to <= place for reader in self._readers)

    def _bound(self, place: int) -> int:
        """Bound of the memory, beyond which the chunk at ``place`` leaves it."""
        return _TAIL_BYTES if self._readers or place < self._unread_from else max(_TAIL_BYTES, self.most_unread())

    def _shrink_memory(self) -> None:
        while len(self._chunks) > 1 and self._memory_bytes > self._bound(self._chunks[0][0]):
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
        """Move a chunk to the file. False: the disk is full, and the chunk stays."""
        record = memoryview(_HEAD.pack(kind, len(data)) + data)
        try:
            if self._spool is None:
                self._spool = tempfile.TemporaryFile(dir=_spool_directory(), buffering=0)  # noqa: SIM115 - closed by _drop_spool
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
        unread: list[tuple[int, int, bytes]] = []
        for chunk in reversed(self._chunks):
            if chunk[0] < place:
                break
            unread.append(chunk)
        found: list[Chunk] = []
        size = 0
        while unread and size < _TAKE_BYTES:
            _, kind, data = unread.pop()
            found.append((kind, data))
            size += len(data)
        return _joined(found), unread[-1][0] if unread else self._end


class Reader:
    """One reader's position. ``missed_bytes``: output that no reader had and that is no longer kept."""

    def __init__(self, log: OutputLog, place: int, missed_bytes: int) -> None:
        self._log = log
        self._more = asyncio.Event()
        self._why_released = ""
        self.place = self.done_to = place
        self.missed_bytes = missed_bytes
        self.on_cut: Callable[[], None] = lambda: None

    async def next(self) -> list[Chunk]:
        """The next output, as soon as there is some; empty: the end. A call says that the output before it was read.

        Raises: UnavailableError: the readers were released.
        """
        self._log.note_read(self)
        while True:
            self._more.clear()
            if self._why_released:
                raise UnavailableError(self._why_released)
            if self._log.finished_at is not None and self.place >= self._log.finished_at:
                return []
            if found := self._log.take(self):
                return found
            await self._more.wait()

    def release(self, why: str) -> None:
        """End the reader at its next call, which says ``why``, without an effect on the process."""
        self._why_released = why
        self.close()
        self.wake()

    def wake(self) -> None:
        """Wake the reader."""
        self._more.set()

    def cut(self) -> None:
        """End the reader from outside: it blocks the process."""
        self.on_cut()

    def close(self) -> None:
        """Remove the reader."""
        self._log.detach(self)


def _joined(chunks: list[Chunk]) -> list[Chunk]:
    """Join adjacent chunks of one kind, as if the pipe had been read a little later."""
    groups: list[tuple[int, list[bytes]]] = []
    for kind, data in chunks:
        if groups and groups[-1][0] == kind:
            groups[-1][1].append(data)
        else:
            groups.append((kind, [data]))
    return [(kind, parts[0] if len(parts) == 1 else b"".join(parts)) for kind, parts in groups]


def _spool_directory() -> str:
    return "/var/tmp" if os.path.isdir("/var/tmp") else "/"  # noqa: S108, PTH112 - the file has no name; the disk is what counts
