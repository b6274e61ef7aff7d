"""Unpacks an archive of a sandbox's ``tar`` on this machine. The archive is hostile: its headers, names, links and rights are checked here.

Invariant: it writes nothing outside of the target. A name leads through real directories alone, because each is opened without following
links. A symbolic link that could lead out is left out, and so is each member that uses a link of the archive. Device files are left out,
and rights beyond those of plain files. Memory is bounded, disk space is not. Files get the owner that the caller is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cloister.errors import InvalidArchiveError
from cloister.model.text import printable
from cloister.protocol.archive import read_members

__all__ = ["unpack_file", "unpack_tree"]

_MOST_LINKS = 200_000
_MOST_NAME = 4096
_MOST_SAID = 300
_MOST_TOLD = 10_000
"""Members that are left out, before the rest of the archive is refused."""
_ODD = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ENOENT, errno.ENXIO, errno.EXDEV)
"""Errors that the name of a member causes, and not the disk."""
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _LeftOutError(Exception):
    """A member that is not unpacked, with the cause."""


def unpack_file(stream: BinaryIO, target: Path) -> None:
    """Write the only member of an archive, a file, to ``target``. Raises: InvalidArchiveError: there is another one; OSError."""
    count = 0
    with _opened(target.parent) as parent:
        for count, (member, content) in enumerate(read_members(stream), 1):
            if count > 1 or not member.isfile():
                raise InvalidArchiveError("the sandbox sent something else than one file")
            _write(parent, target.name, member, content)
    if not count:
        raise InvalidArchiveError("the sandbox sent no file")


def unpack_tree(stream: BinaryIO, target: Path, leave_out: str) -> list[str]:
    """Unpack an archive into the directory ``target``, but for the member ``leave_out`` at its top. Returns what else was left out.

    Raises: InvalidArchiveError: it is damaged, or not as tar makes them; OSError.
    """
    left_out, links = list[str](), _Links()
    target.mkdir(parents=True, exist_ok=True)
    with _opened(target) as root:
        for member, content in read_members(stream):
            name = [part for part in member.name.split("/") if part not in ("", ".")]
            if not name or name == [leave_out]:
                continue
            try:
                links.check(member, name)
                _make(root, name, member, content)
            except (_LeftOutError, ValueError) as error:  # ValueError: a NUL in a name
                left_out.append(_told(member, str(error)))
            except OSError as error:
                if error.errno not in _ODD:
                    raise
                left_out.append(_told(member, os.strerror(error.errno)))
            if len(left_out) > _MOST_TOLD:
                raise InvalidArchiveError(f"more than {_MOST_TOLD} members of the archive had to be left out")
    return left_out


def _told(member: tarfile.TarInfo, cause: str) -> str:
    return printable(f"{member.name[:_MOST_SAID]!r}: {cause}")


class _Links:
    """The symbolic links of an archive. No other member may use one of them, by its name or its target.

    So ".." in the target of a symbolic link, which it may have at its start alone, leads no higher than the top of the archive.
    """

    def __init__(self) -> None:
        self._names = set[str]()

    def check(self, member: tarfile.TarInfo, name: list[str]) -> None:
        """Call this for each member before it is made. Raises: _LeftOutError."""
        if max(len(member.name), len(member.linkname)) > _MOST_NAME:
            raise _LeftOutError("its name is too long")
        is_safe = self._is_real(name)
        if member.issym():
            if len(self._names) >= _MOST_LINKS:
                raise InvalidArchiveError(f"the archive has more than {_MOST_LINKS} links")
            self._names.add("/".join(name))  # also if the link is left out: a later member could name it
            link = _parts(member.linkname)
            ups = next((place for place, part in enumerate(link) if part != ".."), len(link))
            is_safe = is_safe and not member.linkname.startswith("/") and ups < len(name) and ".." not in link[ups:]
        elif member.islnk():
            is_safe = is_safe and self._is_real(_parts(member.linkname))
        if not is_safe:
            raise _LeftOutError("it goes through a link of the archive, or could lead out")

    def _is_real(self, name: list[str]) -> bool:
        return ".." not in name and not any("/".join(name[:end]) in self._names for end in range(1, len(name) + 1))


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _make(root: int, name: list[str], member: tarfile.TarInfo, content: Iterator[bytes]) -> None:
    """Make one member below the descriptor ``root``. Raises: _LeftOutError, OSError."""
    if member.isdir():
        with _directory(root, name):
            return
    with _directory(root, name[:-1]) as parent:
        if member.isfile():
            _write(parent, name[-1], member, content)
        elif member.issym():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name[-1], dir_fd=parent)
            os.symlink(member.linkname, name[-1], dir_fd=parent)
        elif member.islnk():
            source = _parts(member.linkname)
            with _directory(root, source[:-1]) as other:
                if source in ([], name) or not stat.S_ISREG(os.stat(source[-1], dir_fd=other, follow_symlinks=False).st_mode):
                    raise _LeftOutError("it is a link to something else than a file")
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name[-1], dir_fd=parent)
                os.link(source[-1], name[-1], src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
        else:
            raise _LeftOutError("it is no file, directory or link")


def _write(parent: int, name: str, member: tarfile.TarInfo, content: Iterator[bytes]) -> None:
    mode = member.mode & 0o755 if member.mode & 0o100 else member.mode & 0o644
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=parent)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(content)
        file.flush()
        os.fchmod(file.fileno(), mode | 0o600)
        with contextlib.suppress(OverflowError):
            os.utime(file.fileno(), (member.mtime, member.mtime))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _directory(root: int, names: list[str]) -> Iterator[int]:
    """The directory ``names`` below ``root``, made where it is missing. It follows no link, of the archive or of this machine."""
    at = os.dup(root)
    try:
        for name in names:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=at)
            above, at = at, os.open(name, _DIRECTORY, dir_fd=at)
            os.close(above)
        yield at
    finally:
        os.close(at)
