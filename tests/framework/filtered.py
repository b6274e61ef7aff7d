"""Installs a seccomp program on itself and runs another program under it: ``python3 filtered.py FILTER.bpf ARGV…``.

It also holds the raw calls that tests need: ``install`` and ``syscall``. Standard library only, so that it runs inside a test root.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

__all__ = ["install", "syscall"]

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP = {"x86_64": 317, "aarch64": 277}[platform.machine()]


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def syscall(number: int, *args: int | bytes | None) -> int:
    """Make a raw system call; gives 0 or the errno."""
    ctypes.set_errno(0)
    typed = [arg if arg is None or isinstance(arg, bytes) else ctypes.c_ulong(arg & 0xFFFFFFFFFFFFFFFF) for arg in args]
    _libc.syscall.restype = ctypes.c_long
    return 0 if _libc.syscall(ctypes.c_long(number), *typed) >= 0 else ctypes.get_errno()


def install(program: bytes, *, no_new_privs: bool = True) -> None:
    """Put the calling process under the filter; there is no way back."""
    if no_new_privs and _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    fprog = _SockFprog(len(program) // 8, program)
    if _libc.syscall(ctypes.c_long(_SECCOMP), ctypes.c_ulong(_SECCOMP_SET_MODE_FILTER), ctypes.c_ulong(0), ctypes.byref(fprog)):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    install(Path(sys.argv[1]).read_bytes(), no_new_privs=False)
    os.execvp(sys.argv[2], sys.argv[2:])
