"""Opening what somebody else's directory holds, without being led out of it. Source: openat2(2), Linux 5.6."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from cloister.linux.syscall import call

__all__ = ["directory_beneath"]

_OPENAT2 = 437
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x01, 0x02, 0x04, 0x08


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@contextlib.contextmanager
def directory_beneath(root: Path, theirs: str, name: str) -> Iterator[Path]:
    """A path of this process to the directory ``name`` in the directory ``theirs`` of somebody else's below ``root``, good while the
    context is open, whatever becomes of the names.

    Neither symlinks nor ``..`` lead out of ``root``, which itself is trusted; nor mounts out of ``theirs``, which may be one.

    Raises: OSError (ENOENT, ENOTDIR, ELOOP: a symlink, EXDEV: a way out).
    """
    with contextlib.ExitStack() as opened:
        top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, top)
        middle = _open_beneath(top, theirs, _BENEATH)
        opened.callback(os.close, middle)
        fd = _open_beneath(middle, name, _BENEATH | _NO_XDEV)
        opened.callback(os.close, fd)
        yield Path(f"/proc/self/fd/{fd}")


def _open_beneath(directory: int, name: str, resolve: int) -> int:
    how = _OpenHow(os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, resolve | _NO_MAGICLINKS | _NO_SYMLINKS)
    return call(_OPENAT2, directory, os.fsencode(name), ctypes.byref(how), ctypes.sizeof(how))
