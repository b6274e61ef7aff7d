"""The one door to raw system calls that the standard library does not wrap. No policy here.

Numbers are those shared by all architectures since Linux 5.1 (the unified table), so no per-architecture list is needed.
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


def sync_filesystem(path: Path) -> None:
    """Wait until all of the file system that holds ``path`` is on disk. Source: syncfs(2). Raises: OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(fd):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(fd)
