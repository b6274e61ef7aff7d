"""Opening what somebody else's directory holds, without being led out of it. Source: openat2(2), Linux 5.6."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloister.linux.syscall import call

__all__ = ["directory_beneath"]

_OPENAT2 = 437
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x01, 0x02, 0x04, 0x08


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@contextmanager
def directory_beneath(root: Path, name: str) -> Iterator[Path]:
    """A path of this process to the directory ``name`` below ``root``, good while the context is open, whatever becomes of the name.

    Neither symlinks nor ``..`` nor mounts lead out of ``root``; ``root`` itself is trusted.

    Raises: OSError (ENOENT, ENOTDIR, ELOOP: a symlink, EXDEV: a way out).
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = _OpenHow(os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, _NO_XDEV | _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH)
        fd = call(_OPENAT2, top, os.fsencode(name), ctypes.byref(how), ctypes.sizeof(how))
    finally:
        os.close(top)
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
