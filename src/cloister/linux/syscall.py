"""Raw system calls that the standard library does not wrap. No policy.

Since Linux 5.1 new calls have the same number on all architectures, so no table for each architecture is needed.
Runs in: supervisor. Needs: as each call. Source: syscall(2).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

__all__ = ["call", "sync_filesystem"]

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long


def call(number: int, *arguments: object) -> int:
    """syscall(2) by number; ``arguments`` are ints, bytes or ctypes values.

    Raises: OSError with the errno of the call.
    """
    prepared = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(_LIBC.syscall(ctypes.c_long(number), *prepared))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def sync_filesystem(path: Path | int) -> None:
    """Wait until the file system of ``path``, or of a descriptor, is written to disk. Source: syncfs(2). Raises: OSError."""
    if isinstance(path, int):
        if _LIBC.syncfs(path):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_filesystem(fd)
    finally:
        os.close(fd)
