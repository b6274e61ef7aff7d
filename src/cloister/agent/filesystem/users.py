"""Users of the sandbox, and threads that act with their rights.

The agent is root in the sandbox, but what it does to files on a client's behalf it does as the user whom the client named: a thread takes
that user's file system identity before each piece of work. Linux keeps identities by thread; the C library's wrappers change all threads
of a process, so the calls are made directly. With a file system uid other than 0 the kernel itself takes CAP_DAC_OVERRIDE, CAP_FOWNER
and their like out of the effective set.

Invariant: no work of a client's runs in a thread that did not take the identity first; if it cannot be taken, the work does not run.
Source: setfsuid(2), capabilities(7) "Effect of user ID changes", credentials(7).
"""

from __future__ import annotations

import asyncio
import ctypes
import platform
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from cloister.agent.accounts import Account, find_account
from cloister.errors import InternalError

__all__ = ["ROOT", "Workers", "become"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_SETGROUPS, _SETFSUID, _SETFSGID = {"x86_64": (116, 122, 123), "aarch64": (159, 151, 152)}[platform.machine()]
_ASK = -1  # an id that cannot be set: the call only answers the present one
_THREADS = 16


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
    groups = (ctypes.c_uint32 * max(1, len(user.groups)))(*user.groups)
    failed = _libc.syscall(_SETGROUPS, len(user.groups), groups)
    _libc.syscall(_SETFSGID, user.gid)
    _libc.syscall(_SETFSUID, user.uid)
    if failed or _libc.syscall(_SETFSGID, _ASK) != user.gid or _libc.syscall(_SETFSUID, _ASK) != user.uid:
        raise InternalError(f"The agent could not act as the user '{user.name}'")
    _identity.user = user


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
        """Run ``action`` as ``user`` and wait for it. When the waiting is cancelled, the action still runs to its end."""
        return await asyncio.wrap_future(self.submit(user, action, *args, **kwargs))

    async def find_user(self, name: str) -> Account:
        """The user of that name. Raises: AuthenticationError."""
        return await self.run(ROOT, find_account, name)

    async def end(self, _app: object) -> None:
        """When an application ends: take no more work."""
        self.close()

    def close(self) -> None:
        """Take no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)
