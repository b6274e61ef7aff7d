"""Users of the sandbox, and threads that act with their rights.

The agent is root in the sandbox, but it works on a client's files as the user whom the client named: a thread takes that user's file
system identity before each piece of work. Linux keeps identities by thread; the C library's wrappers change all threads of a process, so
this module makes the system calls itself. With a file system uid other than 0 the kernel removes CAP_DAC_OVERRIDE, CAP_FOWNER and similar
capabilities from the effective set. gVisor has no such ids; there the thread takes the user's effective ids.

A client that names no user is not restricted by file rights (decision 0304). The thread takes the default user's identity, so that its
new files belong to that user from the start, and restores three of these capabilities.

Invariant: no work of a client runs in a thread before the thread has taken the identity; if it cannot take it, the work does not run.
Source: setfsuid(2), capabilities(7) "Effect of user ID changes", credentials(7), capset(2).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import os
import platform
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from cloister.agent.accounts import Account, find_account
from cloister.errors import InternalError

__all__ = ["ROOT", "Unrestricted", "Workers", "acting_uid", "become", "root_itself"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_SETGROUPS, _SETFSUID, _SETFSGID = {"x86_64": (116, 122, 123), "aarch64": (159, 151, 152)}[platform.machine()]
_SETRESUID, _SETRESGID = {"x86_64": (117, 119), "aarch64": (147, 149)}[platform.machine()]
_CAPGET, _CAPSET = {"x86_64": (125, 126), "aarch64": (90, 91)}[platform.machine()]
_ASK = -1  # an id that cannot be set: the call only returns the present one
_KEEP = -1
_CAPABILITY_VERSION = 0x20080522
_POWERS = 1 << 0 | 1 << 1 | 1 << 3  # CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER; without CAP_FSETID a write clears set-id bits, as always
_THREADS = 16


@dataclasses.dataclass(frozen=True)
class Unrestricted(Account):
    """The default user, for clients that name none: new files are the user's, and the thread has root's power over files."""


ROOT = Account("root", 0, 0, (0,), "/root", "/bin/sh")
_identity = threading.local()
_libc = ctypes.CDLL(None, use_errno=True)


def become(user: Account) -> None:
    """Give the calling thread the user's file system identity.

    Runs in: a worker thread. Needs: CAP_SETUID and CAP_SETGID. Raises: InternalError.
    """
    if getattr(_identity, "user", None) == user:
        return
    _identity.user = None
    if not (_take_file_ids(user) if _has_file_ids() else _take_effective_ids(user)):
        raise InternalError(f"The agent could not act as the user '{user.name}'")
    if isinstance(user, Unrestricted):
        _take_powers()
    _identity.user = user


def _has_file_ids() -> bool:
    """Whether the kernel has ids for the file system alone; gVisor's has not (ENOSYS)."""
    return int(_libc.syscall(_SETFSUID, _ASK)) >= 0


def _set_groups(user: Account) -> bool:
    groups = (ctypes.c_uint32 * max(1, len(user.groups)))(*user.groups)
    return int(_libc.syscall(_SETGROUPS, len(user.groups), groups)) == 0


def _take_file_ids(user: Account) -> bool:
    """Whether the calling thread has the user's identity for the file system now."""
    done = _set_groups(user)
    _libc.syscall(_SETFSGID, user.gid)
    _libc.syscall(_SETFSUID, 0)  # the kernel removes capabilities only at a change from uid 0, and they may have been restored before
    _libc.syscall(_SETFSUID, user.uid)
    return done and _libc.syscall(_SETFSGID, _ASK) == user.gid and _libc.syscall(_SETFSUID, _ASK) == user.uid


def _take_effective_ids(user: Account) -> bool:
    """As :func:`_take_file_ids`, by the effective ids; the real and the saved ones stay root's, so the thread can change back.

    Where there are file system ids they are better: a program of the user may set the priority and the processors of a thread with the
    user's effective id (sched(7)). Programs can neither signal nor trace it. The change from uid 0 clears the effective capabilities.
    """
    done = _libc.syscall(_SETRESUID, _KEEP, 0, _KEEP) == 0 and _set_groups(user)
    done = done and _libc.syscall(_SETRESGID, _KEEP, user.gid, _KEEP) == 0 and _libc.syscall(_SETRESUID, _KEEP, user.uid, _KEEP) == 0
    return done and os.getegid() == user.gid and os.geteuid() == user.uid


def acting_uid() -> int:
    """The user id that the calling thread has for the file system."""
    return int(_libc.syscall(_SETFSUID, _ASK)) if _has_file_ids() else os.geteuid()


@contextlib.contextmanager
def root_itself() -> Iterator[None]:
    """Within, a thread that acts for no named user is root, so that programs of the default user cannot touch its new files."""
    user = _identity.user
    if not isinstance(user, Unrestricted):
        yield
        return
    become(ROOT)
    try:
        yield
    finally:
        become(user)


def _take_powers() -> None:
    """Restore the capabilities for files in the calling thread's effective set. Raises: InternalError."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    failed = _libc.syscall(_CAPGET, header, data)
    data[0] |= _POWERS
    if failed or _libc.syscall(_CAPSET, header, data):
        raise InternalError("The agent could not act with the power of root over files")


class Workers:
    """A few threads for work on files."""

    def __init__(self, threads: int = _THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="files")

    def submit(self, user: Account, action: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Run ``action`` as ``user``."""

        def act() -> _T:
            become(user)
            return action(*args, **kwargs)

        return self._pool.submit(act)

    async def run(self, user: Account, action: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run ``action`` as ``user`` and wait for it. If the wait is cancelled, the action still runs to its end."""
        return await asyncio.wrap_future(self.submit(user, action, *args, **kwargs))

    async def find_user(self, named: str | None, default: str) -> Account:
        """The acting user: the one whom the client named, with that user's rights, else the default user, unrestricted.

        Raises: AuthenticationError.
        """
        account = await self.run(ROOT, find_account, named or default)
        return account if named else Unrestricted(**vars(account))

    async def end(self, _app: object) -> None:
        """Stop at the end of an application."""
        self.close()

    def close(self) -> None:
        """Accept no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)
