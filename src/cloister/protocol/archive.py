"""The archives that clients upload for ``COPY``: tar or tar.gz, read once from front to end in bounded memory.

Defines the allowed content and the digest of such an archive. The server names layers by the digest, and the program in the sandbox unpacks
with the same reader, so both see the same files. Invariant: two archives have one digest only if they unpack to the same tree. Uses only
the standard library.

Source: POSIX.1-2017 pax(1), "ustar Interchange Format" and "pax Interchange Format"; tar(5) for GNU's long names.
"""

from __future__ import annotations

import hashlib
import sys
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO

from cloister.errors import InvalidArchiveError

__all__ = ["ArchiveReader", "Bounds", "Kind", "Member", "archive_digest", "read_members"]

_BLOCK = 512
_CHUNK = 1 << 18
_MAX_EXTRA = 1 << 20
"""Most bytes of a member's long name or pax header."""
_MAX_NAME = 4096
_GZIP = b"\x1f\x8b"
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LONG_NAMES = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_VERSION = b"cloister archive 1\n"


class Kind(StrEnum):
    """The kind of a member."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARD_LINK = "hard link"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The bounds of an archive."""

    members: int = 400_000
    name_bytes: int = 64 << 20
    """Bytes of all names and link targets together."""
    total_bytes: int = 16 << 30
    """Bytes of the whole archive, decompressed."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of an archive. ``name`` is relative, without ``.`` and ``..``; the root itself is ``.``."""

    name: str
    """Bytes that are not UTF-8 are surrogates in it (``surrogateescape``)."""
    kind: Kind
    mode: int
    """Permission bits, 0 to 0o7777."""
    size: int
    link: str
    """The target of a symlink, unchanged; or the name of the earlier member that a hard link shares."""


class ArchiveReader:
    """The members of the archive in ``stream``, once, in its order: pairs of a member and its content in chunks.

    Content that is not read is skipped. After the last member, :meth:`digest` has the digest. Iterating raises InvalidArchiveError.
    """

    def __init__(self, stream: BinaryIO, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._data = _Data(stream, self._bounds.total_bytes)
        self._records: dict[bytes, bytes] = {}
        self._name_bytes = self._members = 0
        self._is_whole = False

    def __iter__(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        while (info := _next_header(self._data)) is not None:
            member = _member(info)
            key = self._admit(member)
            if member.kind is Kind.FILE:
                content = self._content(key, member)
                yield member, content
                for _ in content:
                    pass
                continue
            if info.size:
                raise InvalidArchiveError(f"the archive's member {member.name!r} is a {member.kind} with content")
            self._record_other(key, member)
            yield member, iter(())
        self._data.drain()
        self._is_whole = True

    def digest(self) -> str:
        """64 hex digits: sha256 of names, kinds, permissions, contents and link targets, without times, owners and order."""
        if not self._is_whole:
            raise RuntimeError("the archive was not read to its end")
        whole = hashlib.sha256(_VERSION)
        for key in sorted(self._records):
            whole.update(b"%d %b %d %b" % (len(key), key, len(self._records[key]), self._records[key]))
        return whole.hexdigest()

    def _admit(self, member: Member) -> bytes:
        key = _encode(member.name)
        self._name_bytes += len(key) + len(_encode(member.link))
        self._members += 1
        if self._members > self._bounds.members:
            raise InvalidArchiveError(f"the archive has more than {self._bounds.members} members")
        if self._name_bytes > self._bounds.name_bytes:
            raise InvalidArchiveError(f"the names in the archive are longer than {self._bounds.name_bytes} bytes together")
        return key

    def _content(self, key: bytes, member: Member) -> Iterator[bytes]:
        summed = hashlib.sha256()
        for chunk in self._data.content(member.size):
            summed.update(chunk)
            yield chunk
        self._note(key, member, b"f %o %d %b" % (member.mode, member.size, summed.digest()))

    def _note(self, key: bytes, member: Member, record: bytes) -> None:
        """Some builders write a directory with its contents, and then each of its files again: an equal duplicate is no fault."""
        if self._records.setdefault(key, record) != record:
            raise InvalidArchiveError(f"the archive has {member.name!r} twice, and not the same")

    def _record_other(self, key: bytes, member: Member) -> None:
        if member.kind is Kind.DIRECTORY:
            self._note(key, member, b"d %o" % member.mode)
        elif member.kind is Kind.SYMLINK:
            self._note(key, member, b"l " + _encode(member.link))
        elif (record := self._records.get(_encode(member.link), b"")).startswith(b"f"):
            self._note(key, member, record)
        else:
            raise InvalidArchiveError(f"the archive's hard link {member.name!r} names {member.link!r}, which is no file before it")


def archive_digest(stream: BinaryIO, bounds: Bounds | None = None) -> str:
    """The digest of the archive in ``stream``, see :meth:`ArchiveReader.digest`. Raises: InvalidArchiveError."""
    reader = ArchiveReader(stream, bounds)
    for _member, _content in reader:
        pass
    return reader.digest()


def read_members(stream: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, Iterator[bytes]]]:
    """The members of an archive of any length and content, once, in its order, each with its content in chunks.

    Names, kinds and links are as the archive has them: the caller checks each. Memory is bounded. Raises: InvalidArchiveError.
    """
    data = _Data(stream, sys.maxsize)
    while (info := _next_header(data)) is not None:
        has_content = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        content = data.content(info.size if has_content else 0)
        yield info, content
        for _ in content:
            pass
    data.drain()


def _next_header(data: _Data) -> tarfile.TarInfo | None:
    """The header of the next member, with the name, link and size that longer headers before it give; None at the end of the archive."""
    extra: dict[str, str] = {}
    while True:
        info = _parse_header(data)
        if info is None:
            if extra:
                raise InvalidArchiveError("the archive ends after a header that belongs to a member")
            return None
        if info.type in _LONG_NAMES:
            extra[_LONG_NAMES[info.type]] = _decode(data.small(info.size).split(b"\0", 1)[0])
        elif info.type in _PAX:
            extra.update(_parse_pax(data.small(info.size)))
        elif info.type == tarfile.XGLTYPE:
            if {"path", "linkpath", "size"} & _parse_pax(data.small(info.size)).keys():
                raise InvalidArchiveError("the archive has a global header that names a file")
        else:
            return _completed(info, extra)


def _parse_header(data: _Data) -> tarfile.TarInfo | None:
    block = data.exactly(_BLOCK)
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        if not any(block):
            return None
        raise InvalidArchiveError(f"this is not a tar archive, or it is damaged: {error}") from error


def _parse_pax(raw: bytes) -> dict[str, str]:
    """The relevant records of a pax header; each is its length, a space, key=value and a line end."""
    found: dict[str, str] = {}
    while raw:
        digits, space, _ = raw.partition(b" ")
        if not space or not digits.isdigit() or len(digits) > 8 or not len(digits) + 2 < int(digits) <= len(raw):
            raise InvalidArchiveError("the archive has a damaged pax header")
        record, raw = raw[len(digits) + 1 : int(digits)], raw[int(digits) :]
        key, equals, value = record[:-1].partition(b"=")
        if not equals or not record.endswith(b"\n"):
            raise InvalidArchiveError("the archive has a damaged pax header")
        if key.startswith(b"GNU.sparse."):
            raise InvalidArchiveError("the archive has a sparse member, which is not supported")
        if key in (b"path", b"linkpath", b"size"):
            found[key.decode()] = _decode(value)
    return found


def _completed(info: tarfile.TarInfo, extra: dict[str, str]) -> tarfile.TarInfo:
    """``info`` with what the headers before it say."""
    info.name, info.linkname = extra.get("path", info.name), extra.get("linkpath", info.linkname)
    size = extra.get("size", str(info.size))
    if not (size.isascii() and size.isdigit() and len(size) < 20):
        raise InvalidArchiveError(f"the archive's member {info.name!r} has an impossible size")
    info.size = int(size)
    if info.type == tarfile.GNUTYPE_SPARSE:
        raise InvalidArchiveError("the archive has a sparse member, which is not supported")
    return info


def _member(info: tarfile.TarInfo) -> Member:
    name, link = info.name, info.linkname
    kind = _kind(info, name)
    if kind is Kind.HARD_LINK:
        link = _relative(link, kind)
    elif kind is Kind.SYMLINK:
        if not link or "\0" in link or len(_encode(link)) > _MAX_NAME:
            raise InvalidArchiveError(f"the archive's symlink {name!r} has an impossible target")
    else:
        link = ""
    size = info.size if kind is Kind.FILE else 0
    return Member(name=_relative(name, kind), kind=kind, mode=info.mode & 0o7777, size=size, link=link)


def _kind(info: tarfile.TarInfo, name: str) -> Kind:
    if info.type in _FILES:
        return Kind.DIRECTORY if info.type == tarfile.AREGTYPE and name.endswith("/") else Kind.FILE
    kinds = {tarfile.DIRTYPE: Kind.DIRECTORY, tarfile.SYMTYPE: Kind.SYMLINK, tarfile.LNKTYPE: Kind.HARD_LINK}
    if info.type not in kinds:
        raise InvalidArchiveError(f"the archive's member {name!r} is neither file, directory nor link")
    return kinds[info.type]


def _relative(name: str, kind: Kind) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") and parts:
        raise InvalidArchiveError(f"the archive's name {name!r} is absolute")
    if ".." in parts or "\0" in name:
        raise InvalidArchiveError(f"the archive's name {name!r} leads out of the archive")
    if not parts and kind is not Kind.DIRECTORY:
        raise InvalidArchiveError(f"the archive's member {name!r} has no name")
    if len(_encode(name)) > _MAX_NAME or any(len(_encode(part)) > 255 for part in parts):
        raise InvalidArchiveError(f"the archive's name {name[:80]!r}… is too long")
    return "/".join(parts) or "."


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


class _Data:
    """The archive's bytes, decompressed, from front to end, in bounded memory and up to a bound."""

    def __init__(self, stream: BinaryIO, max_bytes: int) -> None:
        self._chunks = _decompressed(stream)
        self._max_bytes = max_bytes
        self._taken = 0
        self._buffer = b""
        self._at = 0
        """The position in the buffer of the first byte that was not returned."""

    def _fill(self) -> None:
        chunk = next(self._chunks, b"")
        if not chunk:
            raise InvalidArchiveError("the archive is cut off")
        self._taken += len(chunk)
        if self._taken > self._max_bytes:
            raise InvalidArchiveError(f"the archive is longer than {self._max_bytes} bytes")
        self._buffer, self._at = self._buffer[self._at :] + chunk, 0

    def exactly(self, size: int) -> bytes:
        """The next ``size`` bytes; for small sizes only."""
        while len(self._buffer) - self._at < size:
            self._fill()
        self._at += size
        return self._buffer[self._at - size : self._at]

    def small(self, size: int) -> bytes:
        """The content that belongs to a header, without its padding."""
        if not 0 <= size <= _MAX_EXTRA:
            raise InvalidArchiveError("the archive has a header of impossible size")
        return self.exactly(size + -size % _BLOCK)[:size]

    def content(self, size: int) -> Iterator[bytes]:
        """The next ``size`` bytes in chunks; skips the padding after them."""
        left = size
        while left:
            if self._at == len(self._buffer):
                self._fill()
            chunk = self._buffer[self._at : self._at + left]
            self._at += len(chunk)
            left -= len(chunk)
            yield chunk
        self.exactly(-size % _BLOCK)

    def drain(self) -> None:
        """Read to the end, so that a checksum there is verified."""
        for chunk in self._chunks:
            self._taken += len(chunk)
            if self._taken > self._max_bytes:
                raise InvalidArchiveError(f"the archive is longer than {self._max_bytes} bytes")


def _decompressed(stream: BinaryIO) -> Iterator[bytes]:
    head = stream.read(_CHUNK)
    if not head.startswith(_GZIP):
        while head:
            yield head
            head = stream.read(_CHUNK)
        return
    while head:
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        while not unpacker.eof:
            if not head:
                raise InvalidArchiveError("the archive is cut off")
            try:
                data = unpacker.decompress(head, _CHUNK)
            except zlib.error as error:
                raise InvalidArchiveError(f"the archive is damaged: {error}") from error
            if data:
                yield data
            head = unpacker.unconsumed_tail or (b"" if unpacker.eof else stream.read(_CHUNK))
        head = (unpacker.unused_data or stream.read(_CHUNK)).lstrip(b"\0")
