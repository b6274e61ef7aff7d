"""Writes a file completely or not at all.

The bytes go to an unnamed file. When all are there, it takes the target's place in one step: no reader sees an incomplete file, and a
writer that disconnects leaves none. Mode, owner, ACL and foreign attributes of a replaced file are kept.

::

    open_target --> write* --> commit: new name      link                      (1 event CREATE, then CHMOD and WRITE as clients expect)
                                 |     existing file link to a marker, rename  (1 event, which the watcher reports as WRITE)
                                 +---  else          copy into the existing file: hard links, mount points, directories where the user
                                                     may not make files; its blocks are reserved first, so a full disk changes nothing

The user does all of this. Only giving the old file's owner to the new file needs root; it is done to our own file while it has no name.
Source: open(2) O_TMPFILE, linkat(2), inotify(7); overlayfs has unnamed files since Linux 6.1.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import stat
import threading
from collections.abc import Mapping, Sequence

from cloister.agent.accounts import Account
from cloister.agent.filesystem.entries import METADATA_PREFIX
from cloister.agent.filesystem.faults import faults
from cloister.agent.filesystem.markers import NEW_PREFIX, SWAP_PREFIX
from cloister.agent.filesystem.target import Target, open_target
from cloister.agent.filesystem.users import ROOT, become
from cloister.errors import ConflictError, InvalidRequestError

__all__ = ["StagedFile"]

_NO_UNNAMED = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})
_NO_SWAP = frozenset({errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV})
_CHUNK_BYTES = 1 << 30
_SPOOL = "/tmp"  # noqa: S108 - for files without a name, when the target's directory takes none
_ACL = "system.posix_acl_access"
_ATTEMPTS = 8
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
_libc = ctypes.CDLL(None, use_errno=True)


class StagedFile:
    """One file that is written for ``user``. All methods block: run them in a thread that acts as the user, one at a time."""

    def __init__(self, user: Account, path: str) -> None:
        self.path = path
        self._user = user
        self._lock = threading.Lock()
        self._target: Target | None = None
        self._fd: int | None = None
        self._marker: str | None = None
        self._elsewhere = False
        self._closed = False

    def open(self) -> None:
        """Find the target, check that it may be written, and open the unnamed file."""
        with self._lock, faults(self.path):
            if self._closed:
                raise ConflictError("the upload was given up")
            self._target = open_target(self.path)
            self._fd = self._open_unnamed(self._target)

    def write(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Append these bytes."""
        with self._lock, faults(self.path):
            fd, left = self._writable(), sum(map(len, chunks))
            left -= os.writev(fd, chunks)
            if left:  # a nearly full disk, or a signal: write the rest piece by piece until the kernel gives the reason
                view = memoryview(b"".join(chunks))[-left:]
                while view:
                    view = view[os.write(fd, view) :]

    def append_file(self, source: int) -> None:
        """Append a whole open file; its bytes do not pass through this process."""
        with self._lock, faults(self.path):
            while os.sendfile(self._writable(), source, None, _CHUNK_BYTES):
                pass

    def commit(self, metadata: Mapping[str, str]) -> None:
        """Put the file in its place, with exactly this metadata."""
        with self._lock, faults(self.path):
            target, fd = self._target, self._writable()
            assert target is not None
            _set_metadata(fd, metadata)
            for _ in range(_ATTEMPTS):
                if target.existing is None:
                    with contextlib.suppress(FileExistsError):
                        self._place(target.name)
                        self._tell(target)
                        return
                    target.close()  # another process made the target meanwhile: replace it
                    self._target = None
                    self._target = target = open_target(self.path)
                elif self._swap(target, fd):
                    return
                else:
                    self._overwrite(target, fd, metadata)
                    return
            raise ConflictError(f"path '{self.path}' changes all the time")

    def close(self) -> None:
        """Free everything; a file that was not committed is gone. May be called at any time, more than once."""
        with self._lock:
            self._closed = True
            if self._marker is not None and self._target is not None:
                with contextlib.suppress(OSError):
                    os.unlink(self._marker, dir_fd=self._target.directory)
            self._marker = None
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
            if self._target is not None:
                self._target.close()
                self._target = None

    def _writable(self) -> int:
        if self._fd is None:
            raise ConflictError("the upload was given up")
        return self._fd

    def _open_unnamed(self, target: Target) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            return os.open(".", flags | os.O_TMPFILE, 0o666, dir_fd=target.directory)
        except PermissionError:
            if target.existing is None:
                raise
            self._elsewhere = True
            return os.open(_SPOOL, flags | os.O_TMPFILE, 0o600)
        except OSError as error:
            if error.errno not in _NO_UNNAMED:
                raise
        self._marker = NEW_PREFIX + secrets.token_hex(8)
        return os.open(self._marker, flags | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=target.directory)

    def _place(self, name: str) -> None:
        """Give the unnamed file an unused name."""
        assert self._target is not None
        directory = self._target.directory
        if self._marker is None:
            os.link(f"/proc/self/fd/{self._fd}", name, dst_dir_fd=directory, follow_symlinks=True)
            return
        os.link(self._marker, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        os.unlink(self._marker, dir_fd=directory)
        self._marker = None

    def _tell(self, target: Target) -> None:
        """Cause the events of a file that is made in place: its mode was set, it was written."""
        with contextlib.suppress(OSError):
            fd = os.open(target.name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=target.directory)
            try:
                os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode))
                if os.fstat(fd).st_size:
                    _touch(fd)
            finally:
                os.close(fd)

    def _swap(self, target: Target, fd: int) -> bool:
        """Replace the existing file; False if this is not possible here."""
        assert target.status is not None
        if self._elsewhere or target.status.st_nlink != 1:
            return False
        self._look_like(target, fd)
        marker = SWAP_PREFIX + secrets.token_hex(8)
        try:
            self._place(marker)
            try:
                os.rename(marker, target.name, src_dir_fd=target.directory, dst_dir_fd=target.directory)
            except OSError:
                os.unlink(marker, dir_fd=target.directory)
                raise
        except OSError as error:
            if error.errno not in _NO_SWAP:
                raise
            return False
        return True

    def _look_like(self, target: Target, fd: int) -> None:
        """Give the unnamed file the owner, mode and attributes of the file that it replaces, as a write in place would keep them."""
        assert target.status is not None
        mode = stat.S_IMODE(target.status.st_mode)
        if self._user.uid != 0:
            mode &= ~(stat.S_ISUID | stat.S_ISGID)  # as the kernel does when another user writes
        become(ROOT)
        try:
            os.fchown(fd, target.status.st_uid, target.status.st_gid)
            os.fchmod(fd, mode)
            for name in os.listxattr(target.existing_path()):
                if name == _ACL or (name.startswith("user.") and not name.startswith(METADATA_PREFIX)):
                    os.setxattr(fd, name, os.getxattr(target.existing_path(), name))
        finally:
            become(self._user)

    def _overwrite(self, target: Target, fd: int, metadata: Mapping[str, str]) -> None:
        """Copy into the existing file. Space for everything is reserved before its first byte changes."""
        size = os.fstat(fd).st_size
        existing = os.open(target.existing_path(), os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if size:
                _reserve(existing, size)
            os.lseek(fd, 0, os.SEEK_SET)
            while os.sendfile(existing, fd, None, _CHUNK_BYTES):
                pass
            os.ftruncate(existing, size)
            _set_metadata(existing, metadata)
        finally:
            os.close(existing)


def _reserve(fd: int, size: int) -> None:
    """Reserve space for ``size`` bytes without a visible change, if the file system can."""
    if _libc.fallocate(fd, _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(size)) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EOPNOTSUPP, errno.EINVAL):
        os.ftruncate(fd, os.fstat(fd).st_size)  # free the space that was reserved before the disk was full
        raise OSError(number, os.strerror(number))


def _set_metadata(fd: int, metadata: Mapping[str, str]) -> None:
    """Set the metadata of an open file to exactly this."""
    try:
        for name in os.listxattr(fd):
            if name.startswith(METADATA_PREFIX):
                os.removexattr(fd, name)
        for key, value in metadata.items():
            os.setxattr(fd, METADATA_PREFIX + key, value.encode())
    except OSError as error:
        if metadata and error.errno in (errno.EOPNOTSUPP, errno.ERANGE, errno.E2BIG, errno.ENOSPC):
            raise InvalidRequestError(f"the metadata cannot be stored on this file system: {error.strerror}") from error
        if error.errno != errno.EOPNOTSUPP:
            raise


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


def _touch(fd: int) -> None:
    """Set only the modification time, which the kernel reports to watchers as a write."""
    times = (_Timespec * 2)(_Timespec(0, _UTIME_OMIT), _Timespec(0, _UTIME_NOW))
    _libc.futimens(fd, times)
