"""Opens directories and files below a directory that untrusted code can change, without following a path out of it.

Runs in: supervisor. Needs: search permission on the directories; Linux 5.6. Source: openat2(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cloister.linux.syscall import call

__all__ = ["directory_beneath", "file_beneath", "mounted_directory"]

_OPENAT2 = 437
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x01, 0x02, 0x04, 0x08
_DIRECTORY = os.O_PATH | os.O_DIRECTORY


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@contextlib.contextmanager
def directory_beneath(root: Path, theirs: str, name: str) -> Iterator[Path]:
    """A path to the directory ``name`` in the untrusted directory ``theirs`` below the trusted directory ``root``.

    The path stays valid while the context is open, even if the names change. Symlinks and ``..`` cannot lead out of ``root``. Mounts cannot
    lead out of ``theirs``, which may itself be a mount point.

    Raises: OSError (ENOENT, ENOTDIR, ELOOP for a symlink, EXDEV for a path that leads out).
    """
    with contextlib.ExitStack() as opened:
        top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, top)
        middle = _open_beneath(top, theirs, _BENEATH)
        opened.callback(os.close, middle)
        fd = _open_beneath(middle, name, _BENEATH | _NO_XDEV)
        opened.callback(os.close, fd)
        yield Path(f"/proc/self/fd/{fd}")


def mounted_directory(root: Path, path: str) -> int:
    """Open a directory at ``path`` below ``root``, across mounts, for reading; the caller closes it. It follows no symlink.

    Raises: OSError.
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _open_beneath(top, path, _BENEATH, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(top)


def file_beneath(directory: int, path: str) -> int:
    """Open a regular file at ``path`` below the descriptor ``directory``, for reading; the caller closes it. Follows no symlink.

    Raises: OSError (as :func:`directory_beneath`; EINVAL when it is no regular file).
    """
    named = _open_beneath(directory, path, _BENEATH | _NO_XDEV, os.O_PATH)  # opening a fifo or a device for reading would act on it
    try:
        if not stat.S_ISREG(os.fstat(named).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        return os.open(f"/proc/self/fd/{named}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(named)


def _open_beneath(directory: int, name: str, resolve: int, flags: int = _DIRECTORY) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve | _NO_MAGICLINKS | _NO_SYMLINKS)
    return call(_OPENAT2, directory, os.fsencode(name), ctypes.byref(how), ctypes.sizeof(how))
