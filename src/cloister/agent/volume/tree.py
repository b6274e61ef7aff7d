"""The files of a volume: every path of a client is looked up below the volume's root, whatever links the volume has.

The kernel resolves each path (openat2 with RESOLVE_IN_ROOT), so absolute links and ``..`` stay inside. An operation then acts on the last
name alone, by the descriptor of its directory: a race changes what it acts on, and never leads out. All calls block.
Source: openat2(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import posixpath
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cloister.agent.volume.faults import ContentFault
from cloister.agent.volume.removal import HIDDEN_PREFIX, remove_tree

__all__ = ["DEFAULT_ID", "HIDDEN_PREFIX", "Owner", "Tree", "clamp"]

DEFAULT_ID = 9090
"""User and group of files whose creator names none; the published one."""
_OPENAT2 = 437
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _IN_ROOT = 0x01, 0x02, 0x04, 0x10
_ANY_MODE = 0o7777
_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@dataclass(frozen=True)
class Owner:
    """The owner and the mode that a request names; None leaves the choice to the operation."""

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None

    def apply(self, fd: int, *, uid: int, gid: int, mode: int) -> None:
        """Give a file the owner and the mode, with these where the request names none."""
        os.fchown(fd, uid if self.uid is None else self.uid, gid if self.gid is None else self.gid)
        os.fchmod(fd, mode if self.mode is None else self.mode)  # after the owner, whose change clears bits


def clamp(path: str) -> str:
    """The absolute path that a client means, in its shortest form, clamped to the root. Raises: ContentFault."""
    if "\0" in path:
        raise ContentFault(400, "INVALID_REQUEST", "the path has a NUL character")
    return "/" + posixpath.normpath("/" + path).lstrip("/")


class Tree:
    """The files below ``root``, an open directory, which stays the caller's."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._place = os.readlink(f"/proc/self/fd/{root}")

    def open(self, path: str, flags: int, *, follow: bool = True) -> int:
        """A descriptor of what is at ``path``; the caller closes it. Raises: OSError."""
        resolve = _IN_ROOT | _NO_XDEV | _NO_MAGICLINKS
        how = _OpenHow(flags | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW), 0, resolve)
        name = path.lstrip("/") or "."
        fd: int = _libc.syscall(_OPENAT2, self._root, os.fsencode(name), ctypes.byref(how), ctypes.sizeof(how))
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
        return fd

    @contextlib.contextmanager
    def opened(self, path: str, flags: int, *, follow: bool = True) -> Iterator[int]:
        """As :meth:`open`, for the time of the block."""
        fd = self.open(path, flags, follow=follow)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The directory of ``path``, open to read, and the last name."""
        directory, name = posixpath.split(path)
        with self.opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
            yield fd, name

    def entry(self, path: str) -> dict[str, Any]:
        """``VolumeEntryStat`` of the contract. A link is described by what it leads to. Raises: OSError."""
        if path == "/":
            return _entry("/", "/", os.fstat(self._root))
        with self.parent(path) as (directory, name):
            return self._entry_at(directory, name, path)

    def _entry_at(self, directory: int, name: str, path: str) -> dict[str, Any]:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISLNK(found.st_mode):
            return _entry(name, path, found)
        target = os.readlink(name, dir_fd=directory)
        try:
            with self.opened(path, os.O_PATH) as fd:
                return {**_entry(name, path, os.fstat(fd)), "target": target}
        except OSError:  # it leads nowhere
            return {**_entry(name, path, found), "type": "unknown", "target": target}

    def listing(self, path: str, depth: int) -> Iterator[dict[str, Any]]:
        """The entries below a directory, by name, each before those below it; ``depth`` levels. Raises: OSError, also while it runs."""
        with self.opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
            names = sorted(name for name in os.listdir(fd) if not name.startswith(HIDDEN_PREFIX))
            for name in names:
                below = posixpath.join(path, name)
                try:
                    found = self._entry_at(fd, name, below)
                    is_directory = stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
                except FileNotFoundError:  # removed meanwhile
                    continue
                yield found
                if depth > 1 and is_directory:
                    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                        yield from self.listing(below, depth - 1)

    def sync(self) -> None:
        """Store everything that was written to the volume. Raises: OSError."""
        if _libc.syncfs(self._root) != 0:
            raise OSError(ctypes.get_errno(), "the volume could not be stored")

    def make_directory(self, path: str, owner: Owner, *, force: bool) -> dict[str, Any]:
        """Make a directory; with ``force`` its parents too, and one that is there stays as it is. Raises: OSError, ContentFault."""
        if path == "/":
            if force:
                return self.entry(path)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if force:
            self.make_parents(path, owner)
        with self.parent(path) as (directory, name):
            try:
                os.mkdir(name, 0o700, dir_fd=directory)
            except FileExistsError:
                with self.opened(path, os.O_PATH) as fd:
                    is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
                if not force or not is_directory:
                    raise
            else:
                self._dress(directory, name, owner, mode=0o777)
                os.fsync(directory)
            return self._entry_at(directory, name, path)

    def make_parents(self, path: str, owner: Owner) -> None:
        """Make the directories above ``path`` that are missing, with the owner's ids and mode 0777."""
        above, missing = posixpath.dirname(path), []
        while above != "/":
            try:
                with self.opened(above, os.O_PATH | os.O_DIRECTORY):
                    break
            except FileNotFoundError:
                missing.append(above)
                above = posixpath.dirname(above)
        for one in reversed(missing):
            with self.parent(one) as (directory, name):
                try:
                    os.mkdir(name, 0o700, dir_fd=directory)
                except FileExistsError:  # made meanwhile
                    continue
                self._dress(directory, name, Owner(owner.uid, owner.gid), mode=0o777)
                os.fsync(directory)

    def _dress(self, directory: int, name: str, owner: Owner, *, mode: int) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            owner.apply(fd, uid=DEFAULT_ID, gid=DEFAULT_ID, mode=mode)
        finally:
            os.close(fd)

    def change(self, path: str, owner: Owner) -> dict[str, Any]:
        """Change the given ones of owner and mode, of what a link leads to. Raises: OSError."""
        with self.opened(path, os.O_PATH) as fd:
            if owner.uid is not None or owner.gid is not None:
                keep = -1
                os.chown(f"/proc/self/fd/{fd}", keep if owner.uid is None else owner.uid, keep if owner.gid is None else owner.gid)
            if owner.mode is not None:
                os.chmod(f"/proc/self/fd/{fd}", owner.mode)
        return self.entry(path)

    def remove(self, path: str) -> None:
        """Remove a file, a link itself, or a directory with all below it. Raises: OSError, ContentFault."""
        if path == "/":
            raise ContentFault(400, "CANNOT_DELETE_ROOT", "the root of a volume cannot be removed")
        with self.parent(path) as (directory, name):
            if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                remove_tree(directory, name)
            else:
                os.unlink(name, dir_fd=directory)
            os.fsync(directory)

    def open_file(self, path: str) -> tuple[int, os.stat_result]:
        """A regular file, to read; the caller closes it. Raises: OSError, ContentFault."""
        fd = self.open(path, os.O_PATH)  # opening a fifo to read would wait
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ContentFault(400, "INVALID_REQUEST", f"{path} is not a file")
            reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(fd)
        return reader, os.fstat(reader)

    def real_path(self, path: str) -> str:
        """Where what is at ``path`` is, without a link in it; ``path`` itself if there is nothing."""
        try:
            with self.opened(path, os.O_PATH) as fd:
                return clamp(os.readlink(f"/proc/self/fd/{fd}").removeprefix(self._place))
        except FileNotFoundError:
            return path

    @contextlib.contextmanager
    def new_file(self, path: str, owner: Owner, *, force: bool, is_durable: bool = True) -> Iterator[int]:
        """A file without a name, to be written in the block. At its end it is stored and appears at ``path``, whole, or not at all.

        Without ``force`` nothing may be there. With it the missing parents are made, and a file that is there is replaced; the new one has
        its owner and mode unless the request names others. Unless ``is_durable`` the caller stores it (:meth:`sync`).
        Raises: OSError, ContentFault.
        """
        if path == "/":
            raise ContentFault(400, "INVALID_REQUEST", "the root of a volume is no file")
        if force:
            self.make_parents(path, owner)
            path = self.real_path(path)
        with self.parent(path) as (directory, name):
            self._check_place(directory, name, path, force=force)
            fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory)
            try:
                yield fd
                self._dress_file(fd, directory, name, owner, force=force)
                if is_durable:
                    os.fsync(fd)
                _put(fd, directory, name, force=force)
                if is_durable:
                    os.fsync(directory)
            finally:
                os.close(fd)

    def place_hidden(self, hidden: str, path: str, owner: Owner, *, force: bool) -> None:
        """Give a stored file beside ``path`` its name at last. Raises: OSError, ContentFault."""
        with self.parent(path) as (directory, name):
            self._check_place(directory, name, path, force=force)
            fd = os.open(hidden, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                self._dress_file(fd, directory, name, owner, force=force)
                os.fsync(fd)
                if not force:
                    os.link(hidden, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
                    os.unlink(hidden, dir_fd=directory)
                else:
                    os.rename(hidden, name, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)
            finally:
                os.close(fd)

    def _dress_file(self, fd: int, directory: int, name: str, owner: Owner, *, force: bool) -> None:
        had = self._had(directory, name) if force else None
        if had is None:
            owner.apply(fd, uid=DEFAULT_ID, gid=DEFAULT_ID, mode=0o666)
        else:
            owner.apply(fd, uid=had.st_uid, gid=had.st_gid, mode=stat.S_IMODE(had.st_mode))

    def _check_place(self, directory: int, name: str, path: str, *, force: bool) -> None:
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not force:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if stat.S_ISDIR(found.st_mode):
            raise ContentFault(400, "INVALID_REQUEST", f"{path} is a directory")

    def _had(self, directory: int, name: str) -> os.stat_result | None:
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found if stat.S_ISREG(found.st_mode) else None


def _put(fd: int, directory: int, name: str, *, force: bool) -> None:
    """Put a file without a name at ``name`` of a directory; with ``force`` in the place of what is there."""
    source = f"/proc/self/fd/{fd}"
    if not force:
        os.link(source, name, dst_dir_fd=directory, follow_symlinks=True)
        return
    hidden = f"{HIDDEN_PREFIX}{secrets.token_hex(8)}"
    os.link(source, hidden, dst_dir_fd=directory, follow_symlinks=True)
    try:
        os.rename(hidden, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(hidden, dir_fd=directory)
        raise


def _entry(name: str, path: str, found: os.stat_result) -> dict[str, Any]:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
    return {
        "name": name,
        "type": kinds.get(stat.S_IFMT(found.st_mode), "unknown"),
        "path": path,
        "size": found.st_size,
        "mode": found.st_mode & _ANY_MODE,
        "uid": found.st_uid,
        "gid": found.st_gid,
        "atime": _time(found.st_atime),
        "mtime": _time(found.st_mtime),
        "ctime": _time(found.st_ctime),
    }


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError):  # a client may set any
        return "1970-01-01T00:00:00Z"
