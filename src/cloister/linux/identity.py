"""Drops root privileges for good or for the files of a thread, and ends a process together with its parent.

Runs in: api process, supervisor, resolver process, commands of root's. Needs: root to change the user.
Source: credentials(7), setresuid(2), setfsuid(2), prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from cloister.errors import IsolationError
from cloister.linux.syscall import call

__all__ = ["become_unprivileged", "die_with_parent", "use_rights_of_owner", "with_rights_of_owner"]

_T = TypeVar("_T")

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_SYS_SETGROUPS, _SYS_SETFSUID, _SYS_SETFSGID = {"x86_64": (116, 122, 123)}.get(platform.machine(), (159, 151, 152))
_NO_ID = -1


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise IsolationError(f"prctl({option}) failed: {os.strerror(code)}", step="prctl", errno=code)


def die_with_parent(number: signal.Signals, parent: int | None = None) -> None:
    """Let the kernel send ``number`` to this process when its parent dies. A change of user resets this.

    ``parent`` is the expected parent. If it has died already, the kernel sends no signal (prctl(2)), so this process ends now.
    """
    _prctl(_PR_SET_PDEATHSIG, int(number))
    if parent is not None and os.getppid() != parent:
        raise SystemExit(f"the process {parent} that started this one has ended")


def become_unprivileged(uid: int | None) -> None:
    """Change to user and group ``uid``, with no supplementary group and no capability, so that the process cannot regain them.

    Call it after the imports, because only root may be able to read the interpreter's directory, and before reading any request.
    None keeps the current user, which must not be root.

    Raises: IsolationError if the process is still root afterwards, or could become root.
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
    raise IsolationError("this process could become root again", step="drop privileges")


def use_rights_of_owner(directory: Path) -> None:
    """Let the calling thread, if it is root's, reach files with the rights of the owner of ``directory`` alone, until it ends.

    So no link or journal that the owner put there leads root to files of others. The libc's functions would change all threads. A later
    change of the process's user ends this. Raises: OSError; IsolationError: the rights did not change.
    """
    owner = directory.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    call(_SYS_SETGROUPS, 0, 0)
    call(_SYS_SETFSGID, owner.st_gid)
    call(_SYS_SETFSUID, owner.st_uid)
    if call(_SYS_SETFSUID, _NO_ID) != owner.st_uid:
        raise IsolationError(f"root could not take the rights of user {owner.st_uid}", step="setfsuid")


def with_rights_of_owner(directory: Path, work: Callable[[], _T]) -> _T:
    """The result of ``work`` in a thread that has :func:`use_rights_of_owner`; with the caller's own if there is no ``directory`` yet."""
    if not directory.exists():
        return work()

    def run() -> _T:
        use_rights_of_owner(directory)
        return work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()
