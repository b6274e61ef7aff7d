"""The stream of a backup: a pax archive that ends with the digest of everything before. Read and written from front to end.

Any tar program lists and unpacks it. Two keys of our own in the pax headers go beyond POSIX: ``SCHILY.xattr.<name>`` (as GNU tar and
bsdtar have it) and ``CLOISTER.holes``, for files with holes: the file's size, then offset and length of each piece of data that follows.

The reader takes any bytes: it bounds what it keeps in memory, and knows only the kinds of entries that the writer makes. It checks no
name: :mod:`cloister.backup.trees` does. Invariant: the end of :meth:`StreamReader.entries` without an error means that the whole stream
is as it was written. Source: POSIX.1-2017 pax(1).
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import BinaryIO

from cloister.errors import InvalidArchiveError, StoreError

__all__ = ["DIGEST_NAME", "Entry", "EntryKind", "StreamReader", "StreamWriter", "check_entry"]

DIGEST_NAME = "sha256"
"""The last entry: the digest of all bytes before its header, in hexadecimal."""
_BLOCK = 512
_CHUNK = 1 << 20
_MAX_HEADER = 4 << 20
"""Most bytes of the pax header of one entry."""
_XATTR = "SCHILY.xattr."
_HOLES = "CLOISTER.holes"
_RECORD = re.compile(rb"(\d{1,8}) ([^=\n]+)=")
_REMEDY = "take another backup"


class EntryKind(StrEnum):
    """The kind of an entry, by its type in the archive."""

    FILE = tarfile.REGTYPE.decode()
    HARD_LINK = tarfile.LNKTYPE.decode()
    SYMLINK = tarfile.SYMTYPE.decode()
    CHARACTER_DEVICE = tarfile.CHRTYPE.decode()
    DIRECTORY = tarfile.DIRTYPE.decode()
    FIFO = tarfile.FIFOTYPE.decode()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file. ``size`` counts the bytes that follow in the stream; ``mtime_ns`` are nanoseconds since the epoch."""

    path: str
    kind: EntryKind = EntryKind.FILE
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: str = ""
    """Of a link; of a hard link, a path in the archive."""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    pieces: tuple[tuple[int, int], ...] | None = None
    """Offset and length of each piece of data; None: the file has no holes."""
    whole_size: int = 0
    """The file's size, if it has holes."""


class StreamWriter:
    """Writes a backup to ``file``. The caller writes the entries in their order, and :meth:`finish` last."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.written = 0

    def add(self, entry: Entry, data: Iterable[bytes] = ()) -> None:
        """Write an entry and its ``size`` bytes of data. Raises: OSError; ValueError: there are more or fewer bytes."""
        self._write(_header(entry))
        left = entry.size
        for piece in data:
            self._write(piece)
            left -= len(piece)
        if left:
            raise ValueError(f"{entry.path} has {entry.size - left} bytes instead of {entry.size}")
        self._write(bytes(-entry.size % _BLOCK))

    def finish(self) -> None:
        """Write the digest and the end of the archive."""
        digest = self._hash.hexdigest().encode()
        self.add(Entry(path=DIGEST_NAME, size=len(digest)), [digest])
        self._write(bytes(2 * _BLOCK))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.written += len(data)


def _header(entry: Entry) -> bytes:
    info = tarfile.TarInfo(entry.path)
    info.type, info.linkname, info.size = entry.kind.encode(), entry.target, entry.size
    info.mode, info.uid, info.gid, info.mtime = entry.mode, entry.uid, entry.gid, max(0, entry.mtime_ns // 10**9)
    extra = {_XATTR + name: value.decode("utf-8", "surrogateescape") for name, value in entry.xattrs.items()}
    if entry.mtime_ns % 10**9:
        extra["mtime"] = f"{info.mtime}.{entry.mtime_ns % 10**9:09d}"
    if entry.pieces is not None:
        extra[_HOLES] = " ".join(str(number) for number in (entry.whole_size, *(one for piece in entry.pieces for one in piece)))
    info.pax_headers = extra
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def check_entry(entry: Entry) -> None:
    """Raises: StoreError: the reader would not give back what the writer makes of the entry, such as for the name of an attribute."""
    try:
        found = next(StreamReader(io.BytesIO(_header(entry))).entries())
    except (InvalidArchiveError, ValueError) as error:
        raise StoreError(f"{entry.path!r} has attributes or holes that a backup cannot hold") from error
    if (found.path, found.target, found.xattrs, found.pieces) != (entry.path, entry.target, entry.xattrs, entry.pieces):
        raise StoreError(f"{entry.path!r} has names or attributes that a backup cannot hold")


class StreamReader:
    """Reads a backup from ``file``, which holds any bytes. Call :meth:`entries` once; read an entry's data before the next entry."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._left = 0

    def entries(self) -> Iterator[Entry]:
        """The entries in their order, without the digest. Raises: InvalidArchiveError: it is no whole, unchanged backup; OSError."""
        while True:
            before = self._hash.hexdigest()
            entry = self._next()
            self._left, padding = entry.size, -entry.size % _BLOCK
            if entry.path == DIGEST_NAME and entry.kind is EntryKind.FILE:
                told = b"".join(self.data()) if entry.size == len(before) else b""
                if told != before.encode():
                    raise InvalidArchiveError("the backup was changed, or is damaged: its digest does not match", hint=_REMEDY)
                return
            yield entry
            for _ in self.data():
                pass
            self._read(padding)

    def data(self) -> Iterator[bytes]:
        """The data of the present entry that was not read yet, in pieces. Raises: InvalidArchiveError."""
        while self._left:
            piece = self._read(min(self._left, _CHUNK))
            self._left -= len(piece)
            yield piece

    def _next(self) -> Entry:
        extra: dict[str, bytes] = {}
        while True:
            block = self._read(_BLOCK)
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                if info.type != tarfile.XHDTYPE:
                    return _entry(info, extra)
                if extra or not 0 <= info.size <= _MAX_HEADER:
                    raise ValueError("a header that no backup has")
                extra = _records(self._read(info.size))
                self._read(-info.size % _BLOCK)
            except (tarfile.HeaderError, ValueError) as error:
                raise InvalidArchiveError(f"this is no backup, or it is damaged: {error}", hint=_REMEDY) from error

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise InvalidArchiveError("the backup ends too early", hint=_REMEDY)
        self._hash.update(data)
        return data


def _records(data: bytes) -> dict[str, bytes]:
    """The records of a pax header. Raises: ValueError."""
    found, at = {}, 0
    while at < len(data):
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ValueError("a header cannot be read")
        found[match[2].decode("utf-8", "surrogateescape")] = data[match.end() : end - 1]
        at = end
    return found


def _entry(info: tarfile.TarInfo, extra: dict[str, bytes]) -> Entry:
    """Raises: ValueError."""
    texts = {name: value.decode("utf-8", "surrogateescape") for name, value in extra.items()}
    kind = EntryKind(info.type.decode("ascii"))
    size = int(texts.get("size", info.size))
    seconds, _, fraction = texts.get("mtime", str(int(info.mtime))).partition(".")
    pieces, whole_size = None, 0
    if _HOLES in texts:
        whole_size, *numbers = [int(number) for number in texts[_HOLES].split(" ")]
        pieces = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        ends = [0, *(offset + length for offset, length in pieces), whole_size]
        starts = [*(offset for offset, _ in pieces), whole_size]
        if any(length < 0 for _, length in pieces) or any(end > start for end, start in zip(ends, starts, strict=False)):
            raise ValueError(f"the holes of {info.name!r} cannot be")
        if sum(length for _, length in pieces) != size:
            raise ValueError(f"the holes of {info.name!r} do not fit its data")
    if size < 0 or (size and kind is not EntryKind.FILE):
        raise ValueError(f"{info.name!r} has a wrong size")
    if kind is EntryKind.CHARACTER_DEVICE and (info.devmajor or info.devminor):
        raise ValueError(f"{info.name!r} is a device")
    path = texts.get("path", info.name)
    return Entry(
        path=path.removesuffix("/") if kind is EntryKind.DIRECTORY else path,  # tar(5) marks directories so
        kind=kind,
        mode=info.mode & 0o7777,
        uid=int(texts.get("uid", info.uid)),
        gid=int(texts.get("gid", info.gid)),
        mtime_ns=int(seconds) * 10**9 + int(fraction.ljust(9, "0")[:9] or 0),
        size=size,
        target=texts.get("linkpath", info.linkname),
        xattrs={name.removeprefix(_XATTR): value for name, value in extra.items() if name.startswith(_XATTR)},
        pieces=pieces,
        whole_size=whole_size,
    )
