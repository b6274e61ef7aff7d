"""The fork of a warm zygote: forks children into sandboxes on the supervisor's request, in the loop of join.so.

The contract is in docs/decisions/0014-zygotes.md. The agent zygote and the kernel zygote share this module, so it runs on any template's
Python 3.9 or newer with the standard library alone, and does not know what its children become. Invariant: a child returns from
:func:`serve` with the power of a sandbox's root, one descriptor beside its standard ones (the birth socket), and no other way to the
zygote or the supervisor.
"""

from __future__ import annotations

import ctypes
import os
import socket

from zygote_memory import faults

__all__ = ["ZygoteUnfitError", "serve"]

_CONTROL_FD, _FILTER_FD, _LIBRARY_FD = 3, 4, 5


class ZygoteUnfitError(Exception):
    """Children of this process would share something that they must not, or would lack a thread."""


def _check_fit() -> None:
    """Raises: ZygoteUnfitError if sandboxes forked from this process would share something, or would lack a thread."""
    if wrong := faults():
        raise ZygoteUnfitError(f"the zygote must not fork: it has {', '.join(wrong)}")


def serve() -> socket.socket:
    """Answer fork requests until the supervisor ends, which ends the process. Returns only in a forked child, with its birth socket.

    The caller has one thread and has frozen its heap.

    Raises: ZygoteUnfitError, OSError (not started as a zygote).
    """
    library = ctypes.PyDLL(f"/proc/self/fd/{_LIBRARY_FD}")
    library.cloister_serve.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_long, ctypes.c_void_p)
    library.cloister_serve.restype = None
    fork = ctypes.cast(ctypes.CDLL(None).fork, ctypes.c_void_p)
    seccomp_filter = os.pread(_FILTER_FD, os.fstat(_FILTER_FD).st_size, 0)
    _check_fit()
    own_pid = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    with socket.socket(fileno=os.dup(_CONTROL_FD)) as control:
        control.send(b"ready")
    ctypes.pythonapi.PyOS_BeforeFork()
    library.cloister_serve(_CONTROL_FD, own_pid, seccomp_filter, len(seccomp_filter), fork)
    ctypes.pythonapi.PyOS_AfterFork_Child()
    return socket.socket(fileno=_CONTROL_FD)
