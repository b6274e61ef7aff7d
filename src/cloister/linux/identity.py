"""Giving up root for good. Source: credentials(7), setresuid(2), prctl(2)."""

from __future__ import annotations

import ctypes
import os

from cloister.errors import IsolationError

__all__ = ["become_unprivileged"]

_PR_SET_NO_NEW_PRIVS = 38


def become_unprivileged(uid: int) -> None:
    """Make this process user and group ``uid`` with no supplementary group, no capability and no way back.

    A process calls it after its imports (the interpreter may lie below a directory of root's only) and before it reads any request.
    Does nothing when the process is that user already.

    Raises: IsolationError when root is still within reach afterwards.
    """
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if set(os.getresuid()) != {uid} or set(os.getresgid()) != {uid}:
        raise IsolationError(f"cannot become user {uid}", step="drop privileges", hint="start it as root or as that user")
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise IsolationError("root is still within reach", step="drop privileges")
