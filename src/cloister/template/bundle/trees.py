"""Unpacks an archive of a bundle into an empty directory that only root can enter.

The archive may be hostile, and root writes. An entry is created only below directories that the same archive created as directories, and
no name comes twice. So no link, and no ``..``, leads a write out of the tree, whatever the archive says. Bounds are those of the manifest:
the first byte or entry beyond them ends the import. Runs in: ``cloister bundle import``. Needs: root, for owners and whiteouts.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cloister.template.bundle.manifest import Part, refuse
from cloister.template.bundle.tarstream import Entry, read_entries

__all__ = ["ArchiveStream", "unpack_tree"]

_CHUNK_BYTES = 1 << 18
_MOST_ID = 65535
"""The last id inside a sandbox."""
_OPAQUE = "user.overlay.opaque"
_NO_SPECIAL_BITS = 0o755
_END_OF_ARCHIVE_BYTES = 20 * 512


class ArchiveStream:
    """The bytes of a gzipped part: at most ``part.stream_bytes`` of them, and only if the part has the manifest's digest."""

    def __init__(self, file: BinaryIO, offset: int, part: Part) -> None:
        self._file = file
        self._offset = offset
        self._left = part.size_bytes
        self._part = part
        self._unpacker = zlib.decompressobj(wbits=31)
        self._digest = hashlib.sha256()
        self._ready = bytearray()
        self._bytes = 0

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes. Raises: InvalidRequestError at the end."""
        while len(self._ready) < size:
            if not self._fill():
                raise refuse(f"{self._part.name} is cut off")
        taken = bytes(self._ready[:size])
        del self._ready[:size]
        return taken

    def finish(self) -> None:
        """Check that only the end of the archive is left, and that the part was the one of the manifest. Raises: InvalidRequestError."""
        while self._fill():
            if len(self._ready) > _END_OF_ARCHIVE_BYTES:
                raise refuse(f"{self._part.name} goes on behind its end")
        if any(self._ready) or self._digest.hexdigest() != self._part.sha256 or self._bytes != self._part.stream_bytes:
            raise refuse(f"{self._part.name} is not what the manifest says")

    def _fill(self) -> bool:
        if self._unpacker.eof:
            if self._left or self._unpacker.unused_data:
                raise refuse(f"{self._part.name} has data behind its end")
            return False
        packed = self._unpacker.unconsumed_tail
        if not packed:
            packed = os.pread(self._file.fileno(), min(_CHUNK_BYTES, self._left), self._offset)
            self._digest.update(packed)
            self._offset += len(packed)
            self._left -= len(packed)
            if not packed:
                raise refuse(f"{self._part.name} is cut off")
        try:
            found = self._unpacker.decompress(packed, 4 * _CHUNK_BYTES)
        except zlib.error as error:
            raise refuse(f"{self._part.name} is damaged: {error}") from error
        self._bytes += len(found)
        if self._bytes > self._part.stream_bytes:
            raise refuse(f"{self._part.name} unpacks to more than the manifest says")
        self._ready += found
        return True


@dataclass
class _Made:
    """The names created so far, and the bytes."""

    directories: dict[str, Entry] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    count: int = 0
    content_bytes: int = 0

    def knows(self, name: str) -> bool:
        """Whether an entry of that name exists."""
        return name in self.directories or name in self.files or name in self.others


def unpack_tree(stream: ArchiveStream, part: Part, root: Path, *, is_program: bool = False) -> None:
    """Unpack the stream into the empty directory ``root``. ``is_program``: root runs what is in it, so nothing in it may have other owners,
    special modes or links that lead out.

    Raises: InvalidRequestError: the archive is not what the manifest says, or has an entry that a tree may not have.
    """
    made = _Made()
    try:
        for entry in read_entries(stream.read):
            made.count += 1
            made.content_bytes += entry.header.size
            if made.count > part.entries or made.content_bytes > part.content_bytes:
                raise refuse(f"{part.name} has more entries or content than the manifest says")
            _check(entry, made, is_program=is_program)
            _create(entry, root, stream, made)
        stream.finish()
        for name in sorted(made.directories, reverse=True):  # children first, as creating them changes the times of a directory
            _dress(root / name, made.directories[name])
    except (OSError, ValueError) as error:  # such as a name that is too long, or a full disk
        raise refuse(f"{part.name} cannot be unpacked: {error}") from error
    if (made.count, made.content_bytes) != (part.entries, part.content_bytes):
        raise refuse(f"{part.name} has fewer entries than the manifest says")


def _check(entry: Entry, made: _Made, *, is_program: bool) -> None:
    header, name = entry.header, entry.name
    parent, _, last = name.rpartition("/")
    is_inside = name == "." if not made.directories else parent in made.directories and last not in ("", ".", "..")
    if not is_inside or made.knows(name):
        raise refuse(f"an archive has the entry {name!r} twice, or outside of its own directories")
    if header.type == tarfile.LNKTYPE and entry.target not in made.files:
        raise refuse(f"the hard link {name!r} leads to {entry.target!r}, which is no file of its archive")
    if header.type == tarfile.CHRTYPE and (header.devmajor, header.devminor) != (0, 0):
        raise refuse(f"{name!r} is a device")
    if not (0 <= header.uid <= _MOST_ID and 0 <= header.gid <= _MOST_ID):
        raise refuse(f"{name!r} belongs to user {header.uid}, group {header.gid}")
    if set(entry.xattrs) - {_OPAQUE} or (entry.xattrs and header.type != tarfile.DIRTYPE):
        raise refuse(f"{name!r} has the attribute {min(entry.xattrs)!r}")
    if is_program:
        _check_program(entry)


def _check_program(entry: Entry) -> None:
    header = entry.header
    is_link = header.type == tarfile.SYMTYPE
    if header.uid or header.gid or header.type == tarfile.CHRTYPE or entry.xattrs:
        raise refuse(f"the program's file {entry.name!r} is not root's, or no plain file")
    if not is_link and header.mode & ~_NO_SPECIAL_BITS:
        raise refuse(f"the program's file {entry.name!r} has mode {header.mode:04o}: setuid, setgid, or writable by others")
    up, *rest = re.split(r"(?:^|(?<=/))(?!\.\./)", entry.target, maxsplit=1)
    if is_link and (entry.target.startswith("/") or up.count("/") > entry.name.count("/") - 1 or ".." in "".join(rest).split("/")):
        raise refuse(f"the program's link {entry.name!r} leads out of its directory")


def _create(entry: Entry, root: Path, stream: ArchiveStream, made: _Made) -> None:
    header, path = entry.header, os.path.join(root, entry.name)  # noqa: PTH118 - a hundred thousand times
    if header.type == tarfile.DIRTYPE:
        if entry.name != ".":
            os.mkdir(path, 0o700)  # noqa: PTH102 - as above
        made.directories[entry.name] = entry
        return
    if header.type == tarfile.LNKTYPE:
        os.link(os.path.join(root, entry.target), path, follow_symlinks=False)  # noqa: PTH118 - as above
        made.files.add(entry.name)
        return
    if header.type == tarfile.REGTYPE:
        _write(path, entry, stream)
        made.files.add(entry.name)
        return
    made.others.add(entry.name)
    if header.type == tarfile.SYMTYPE:
        os.symlink(entry.target, path)  # noqa: PTH211 - as above
    else:  # a whiteout: the name is hidden in the layers below
        os.mknod(path, 0o020000, 0)
    os.chown(path, header.uid, header.gid, follow_symlinks=False)
    os.utime(path, (header.mtime, header.mtime), follow_symlinks=False)


def _write(path: str, entry: Entry, stream: ArchiveStream) -> None:
    header = entry.header
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        left = header.size
        while left:
            chunk = memoryview(stream.read(min(left, _CHUNK_BYTES)))
            left -= len(chunk)
            while chunk:
                chunk = chunk[os.write(file, chunk) :]
        stream.read(entry.padding)
        os.fchown(file, header.uid, header.gid)
        os.fchmod(file, header.mode & 0o7777)  # last: a change of the owner takes setuid away
        os.utime(file, (header.mtime, header.mtime))
    finally:
        os.close(file)


def _dress(path: Path, entry: Entry) -> None:
    header = entry.header
    for name, text in entry.xattrs.items():
        os.setxattr(path, name, text.encode(), follow_symlinks=False)
    os.chown(path, header.uid, header.gid, follow_symlinks=False)
    path.chmod(header.mode & 0o7777)
    os.utime(path, (header.mtime, header.mtime), follow_symlinks=False)
