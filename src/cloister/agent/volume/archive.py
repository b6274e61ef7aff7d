"""Directories as tar archives, down and up, in a stream: no archive is ever whole in memory or on disk. All calls block."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
import tarfile
from collections.abc import Callable
from typing import BinaryIO, cast

from cloister.agent.volume.faults import ContentFault, fault_of
from cloister.agent.volume.tree import HIDDEN_PREFIX, Owner, Tree, clamp

__all__ = ["pack", "unpack"]

_CHUNK = 1 << 20
_MAX_ID = 65_535


class _Sink:
    """A file that hands on what is written to it."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write


class _Source:
    """A file that asks for what is read from it."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.read = read


class _Exact:
    """A file of exactly ``size`` bytes, whatever happens to the real one while it is read."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._left = size

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; zeros where the file has become shorter."""
        wanted = min(size, self._left)
        found = os.read(self._fd, wanted) if wanted else b""
        data = found or bytes(wanted)
        self._left -= len(data)
        return data + (self.read(size - len(data)) if len(data) < size and self._left else b"")


def pack(tree: Tree, path: str, write: Callable[[bytes], None]) -> None:
    """Write the files below a directory as a tar archive, with numeric owners. Devices, pipes and sockets are left out. Raises: OSError."""
    with tarfile.open(fileobj=cast("BinaryIO", _Sink(write)), mode="w|", bufsize=_CHUNK) as archive:
        waiting = [path]
        while waiting:
            above = waiting.pop()
            with tree.opened(above, os.O_RDONLY | os.O_DIRECTORY) as directory:
                further = []
                for name in sorted(os.listdir(directory)):
                    if name.startswith(HIDDEN_PREFIX):
                        continue
                    below = posixpath.join(above, name)
                    if _add(archive, directory, name, posixpath.relpath(below, path)):
                        further.append(below)
            waiting += reversed(further)


def _add(archive: tarfile.TarFile, directory: int, name: str, member: str) -> bool:
    """Add one entry; whether it is a directory."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        info = tarfile.TarInfo(member)
        info.uid, info.gid, info.mode, info.mtime = found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), found.st_mtime
        if stat.S_ISDIR(found.st_mode):
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
            return True
        if stat.S_ISLNK(found.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=directory)
            archive.addfile(info)
        elif stat.S_ISREG(found.st_mode):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            try:
                info.size = os.fstat(fd).st_size
                archive.addfile(info, cast("BinaryIO", _Exact(fd, info.size)))
            finally:
                os.close(fd)
    except (FileNotFoundError, NotADirectoryError):  # removed meanwhile
        pass
    except OSError as error:
        if error.errno != errno.ELOOP:  # it has become a link meanwhile
            raise
    return False


def unpack(tree: Tree, path: str, read: Callable[[int], bytes], *, force: bool) -> int:
    """Make the files of a tar archive, plain or compressed, below a directory; gives how many. They are stored when this returns.

    With ``force`` they replace those that are there. Names that would lead out of the directory are clamped to it.
    Raises: OSError, ContentFault: the archive is damaged or has a device; what came before it is there then.
    """
    tree.make_directory(path, Owner(), force=True)
    count = 0
    try:
        with tarfile.open(fileobj=cast("BinaryIO", _Source(read)), mode="r|*", bufsize=_CHUNK) as archive:
            for member in archive:
                try:
                    _extract(tree, path, archive, member, force=force)
                except OSError as error:
                    raise fault_of(error, clamp(member.name)) from error
                count += 1
                archive.members = []  # type: ignore[attr-defined]  # it is public, and keeps every member in memory otherwise
    except tarfile.TarError as error:
        raise ContentFault(400, "INVALID_ARCHIVE", f"the body is no whole tar archive: {error}") from error
    except EOFError as error:
        raise ContentFault(400, "INVALID_ARCHIVE", "the archive ends too early") from error
    tree.sync()
    return count


def _extract(tree: Tree, path: str, archive: tarfile.TarFile, member: tarfile.TarInfo, *, force: bool) -> None:
    target = posixpath.join(path, clamp(member.name).lstrip("/")).rstrip("/") or "/"
    if not (0 <= member.uid <= _MAX_ID and 0 <= member.gid <= _MAX_ID):
        raise ContentFault(400, "INVALID_ARCHIVE", f"{member.name} has an owner above {_MAX_ID}")
    owner = Owner(member.uid, member.gid, member.mode & 0o7777)
    if member.isdir():
        tree.make_directory(target, owner, force=True)
        return
    if member.isreg():
        content = archive.extractfile(member)
        assert content is not None
        tree.make_parents(target, Owner())
        with tree.new_file(target, owner, force=force, is_durable=False) as fd:
            while chunk := content.read(_CHUNK):
                _write(fd, chunk)
        return
    if not (member.issym() or member.islnk()):
        raise ContentFault(400, "INVALID_ARCHIVE", f"{member.name} is no file, directory or link")
    tree.make_parents(target, Owner())
    with tree.parent(target) as (directory, name):
        if force:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
        if member.issym():
            os.symlink(member.linkname, name, dir_fd=directory)
            os.chown(name, member.uid, member.gid, dir_fd=directory, follow_symlinks=False)
            return
        with tree.parent(posixpath.join(path, clamp(member.linkname).lstrip("/"))) as (source, source_name):
            os.link(source_name, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
