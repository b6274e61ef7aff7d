"""Puts the tree of a layer into a backup, and a tree from a backup into an empty directory.

Template code wrote the tree, so this module treats it as data: it opens no file but regular ones, follows no symlink, and stays on the
tree's file system. A published layer never changes, and only root reaches it, so paths are stable while it is read.

A backup may come from an attacker. An unpacked entry lies below the root of its tree: each directory on its way was made by the same
unpacking, in a directory that only root reaches. Owners are ids of a sandbox. Runs in: a command of the operator's. Needs: root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from cloister.backup.stream import Entry, EntryKind
from cloister.errors import InvalidArchiveError

__all__ = ["TreeUnpacker", "read_entry", "walk_tree"]

_CHUNK = 1 << 20
_LAST_ID = 65_535
_XATTRS = ("user.", "security.capability", "trusted.overlay.", "system.posix_acl_")
"""Extended attributes that layers may have; the others belong to the host."""
_KINDS = {
    stat.S_IFREG: EntryKind.FILE,
    stat.S_IFDIR: EntryKind.DIRECTORY,
    stat.S_IFLNK: EntryKind.SYMLINK,
    stat.S_IFIFO: EntryKind.FIFO,
    stat.S_IFCHR: EntryKind.CHARACTER_DEVICE,
}


def walk_tree(root: Path, prefix: str) -> Iterator[Entry]:
    """The entries of the tree, each directory before its content; their paths begin with ``prefix``. Sockets are left out.

    Raises: OSError, such as for a path that is longer than the kernel takes (ENAMETOOLONG).
    """
    top = os.lstat(root)
    linked: dict[int, str] = {}
    waiting = [""]
    while waiting:
        below = waiting.pop()
        path = root / below
        status = os.lstat(path)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None or status.st_dev != top.st_dev or (kind is EntryKind.CHARACTER_DEVICE and status.st_rdev):
            continue
        name = f"{prefix}/{below}" if below else prefix
        first = linked.setdefault(status.st_ino, name) if status.st_nlink > 1 and kind is not EntryKind.DIRECTORY else name
        yield _entry(path, name, kind, status) if first == name else Entry(path=name, kind=EntryKind.HARD_LINK, target=first)
        if kind is EntryKind.DIRECTORY:
            names = sorted((one.name for one in path.iterdir()), reverse=True)
            waiting += [f"{below}/{one}" if below else one for one in names]


def _entry(path: Path, name: str, kind: EntryKind, status: os.stat_result) -> Entry:
    pieces = _pieces(path, status.st_size) if kind is EntryKind.FILE and status.st_blocks * 512 < status.st_size else None
    size = status.st_size if kind is EntryKind.FILE else 0
    return Entry(
        path=name,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size=size if pieces is None else sum(length for _, length in pieces),
        target=os.readlink(path) if kind is EntryKind.SYMLINK else "",  # noqa: PTH115 - a Path would change the text of some targets
        xattrs=_attributes(path),
        pieces=pieces,
        whole_size=0 if pieces is None else status.st_size,
    )


def _attributes(path: Path) -> dict[str, bytes]:
    names = [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith(_XATTRS)]
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _pieces(path: Path, size: int) -> tuple[tuple[int, int], ...]:
    """Where the file has data. Source: lseek(2)."""
    found, end = [], 0
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while end < size:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            found.append((start, end - start))
    except OSError as error:
        if error.errno != errno.ENXIO:  # the rest is a hole
            raise
    finally:
        os.close(descriptor)
    return tuple(found)


def read_entry(root: Path, prefix: str, entry: Entry) -> Iterator[bytes]:
    """The data of a file that :func:`walk_tree` gave. Raises: OSError."""
    if not entry.size:
        return
    path = root / entry.path.removeprefix(prefix).lstrip("/")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for start, length in entry.pieces if entry.pieces is not None else ((0, entry.size),):
            at = start
            while at < start + length:
                data = os.pread(descriptor, min(_CHUNK, start + length - at), at)
                if not data:
                    raise OSError(errno.EIO, "the file became shorter", os.fspath(path))
                yield data
                at += len(data)
    finally:
        os.close(descriptor)


class TreeUnpacker:
    """Unpacks the entries below ``prefix`` into ``root``, an empty directory. Directories get their times at :meth:`finish`."""

    def __init__(self, root: Path, prefix: str) -> None:
        self._root = root
        self._prefix = prefix
        self._made: dict[str, EntryKind] = {}
        self._times: list[tuple[Path, int]] = []

    def put(self, entry: Entry, data: Iterable[bytes]) -> None:
        """Make one entry. Raises: InvalidArchiveError: it would lie elsewhere, or no layer has such an entry; OSError."""
        below = self._below(entry.path)
        if below in self._made:
            raise InvalidArchiveError(f"{entry.path!r} is in the backup twice")
        path = self._root / below
        if entry.kind is EntryKind.HARD_LINK:
            source = self._below(entry.target)
            if self._made.get(source, EntryKind.DIRECTORY) is EntryKind.DIRECTORY:
                raise InvalidArchiveError(f"{entry.path!r} is a link to {entry.target!r}, which is no file before it")
            os.link(self._root / source, path, follow_symlinks=False)
        else:
            try:
                self._make(path, entry, data)
                _dress(path, entry)
                os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
            except (ValueError, OverflowError) as error:  # such as a NUL in a target, or a time that is no time
                raise InvalidArchiveError(f"{entry.path!r} cannot be made: {error}") from error
            self._times.append((path, entry.mtime_ns))
        self._made[below] = entry.kind

    def finish(self) -> None:
        """Set the times of the files."""
        for path, mtime_ns in reversed(self._times):
            os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)

    def _below(self, path: str) -> str:
        """The path below the root, "" for the root itself. Its directory was made by this unpacking."""
        if path == self._prefix:
            return ""
        below = path.removeprefix(f"{self._prefix}/")
        parts = below.split("/")
        if below == path or any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise InvalidArchiveError(f"an entry of the backup would lie outside of its directory: {path!r}")
        if self._made.get("/".join(parts[:-1])) is not EntryKind.DIRECTORY:
            raise InvalidArchiveError(f"the directory of {path!r} is not in the backup before it")
        return below

    def _make(self, path: Path, entry: Entry, data: Iterable[bytes]) -> None:
        match entry.kind:
            case EntryKind.DIRECTORY:
                if entry.path != self._prefix:
                    path.mkdir(0o700)
            case EntryKind.SYMLINK:
                path.symlink_to(entry.target)
            case EntryKind.FIFO:
                os.mkfifo(path, 0o600)
            case EntryKind.CHARACTER_DEVICE:
                os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(0, 0))  # how an overlay marks a removed file
            case _:
                _write(path, entry, data)


def _write(path: Path, entry: Entry, data: Iterable[bytes]) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as file:
        if entry.pieces is None:
            file.writelines(data)
            return
        pieces = iter(entry.pieces)
        left = 0
        for chunk in data:
            rest = memoryview(chunk)
            while rest:
                while not left:
                    offset, left = next(pieces)
                    file.seek(offset)
                written = file.write(rest[:left])
                rest, left = rest[written:], left - written
        file.truncate(entry.whole_size)


def _dress(path: Path, entry: Entry) -> None:
    """Set owner, then mode (a change of owner clears setuid), then attributes."""
    if not (0 <= entry.uid <= _LAST_ID and 0 <= entry.gid <= _LAST_ID):
        raise InvalidArchiveError(f"{entry.path!r} belongs to the id {entry.uid}:{entry.gid}, which no sandbox has")
    os.lchown(path, entry.uid, entry.gid)
    if entry.kind is not EntryKind.SYMLINK:
        path.chmod(entry.mode)
    for name, value in entry.xattrs.items():
        if not name.startswith(_XATTRS):
            raise InvalidArchiveError(f"{entry.path!r} has the attribute {name!r}, which no layer has")
        os.setxattr(path, name, value, follow_symlinks=False)
