"""What a process may be: giving up root for good, and dying with the parent. Source: credentials(7), setresuid(2), prctl(2)."""

from __future__ import annotations

import ctypes
import os
import signal

from cloister.errors import IsolationError

__all__ = ["become_unprivileged", "die_with_parent"]

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise IsolationError(f"prctl({option}) failed: {os.strerror(code)}", step="prctl", errno=code)


def die_with_parent(number: signal.Signals, parent: int | None = None) -> None:
    """Have the kernel send ``number`` to this process when its parent dies. Forgotten when the process changes its user.

    ``parent`` is who the parent is to be: if it has died already, of which the kernel tells nothing (prctl(2)), this process ends now.
    """
    _prctl(_PR_SET_PDEATHSIG, int(number))
    if parent is not None and os.getppid() != parent:
        raise SystemExit(f"the process {parent} that started this one has ended")


def become_unprivileged(uid: int | None) -> None:
    """Make this process user and group ``uid`` with no supplementary group, no capability and no way back.

    A process calls it after its imports (the interpreter may lie below a directory of root's only) and before it reads any request.
    None: stay the user that the process is, which must not be root.

    Raises: IsolationError when the process is root, or root is within reach, afterwards.
    """
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if 0 in os.getresuid() or 0 in os.getresgid():
        raise IsolationError(
            "this process must not run as root", step="drop privileges", hint="start it by `cloister serve`, or give it --uid"
        )
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise IsolationError("root is still within reach", step="drop privileges")
