"""Users of the sandbox, and threads that act with their rights.

The agent is root in the sandbox, but what it does to files on a client's behalf it does as the user whom the client named: a thread takes
that user's file system identity before each piece of work. Linux keeps identities by thread; the C library's wrappers change all threads
of a process, so the calls are made directly. With a file system uid other than 0 the kernel itself takes CAP_DAC_OVERRIDE, CAP_FOWNER
and their like out of the effective set.

A client that names nobody is not held up by rights (decision 0304): the thread takes the default user's identity, so that what it makes
is that user's from the first moment and nothing is ever given away, and puts three of these capabilities back.

Invariant: no work of a client's runs in a thread that did not take the identity first; if it cannot be taken, the work does not run.
Source: setfsuid(2), capabilities(7) "Effect of user ID changes", credentials(7), capset(2).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
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
_CAPGET, _CAPSET = {"x86_64": (125, 126), "aarch64": (90, 91)}[platform.machine()]
_ASK = -1  # an id that cannot be set: the call only answers the present one
_CAPABILITY_VERSION = 0x20080522
_POWERS = 1 << 0 | 1 << 1 | 1 << 3  # CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER; without CAP_FSETID writing takes set-id bits off, as always
_THREADS = 16


@dataclasses.dataclass(frozen=True)
class Unrestricted(Account):
    """The default user when the client named nobody: what is made is the user's, and root's power over files stands behind it."""


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
    _libc.syscall(_SETFSUID, 0)  # capabilities are taken away on the way from 0 only, and may have been put back before
    _libc.syscall(_SETFSUID, user.uid)
    if failed or _libc.syscall(_SETFSGID, _ASK) != user.gid or _libc.syscall(_SETFSUID, _ASK) != user.uid:
        raise InternalError(f"The agent could not act as the user '{user.name}'")
    if isinstance(user, Unrestricted):
        _take_powers()
    _identity.user = user


def acting_uid() -> int:
    """The user id that the calling thread has for the file system."""
    return int(_libc.syscall(_SETFSUID, _ASK))


@contextlib.contextmanager
def root_itself() -> Iterator[None]:
    """Within, a thread that acts for nobody named is root, so that no program of the default user can touch what it makes."""
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
    """Put the powers over files back into the calling thread's effective set. Raises: InternalError."""
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
        """Run ``action`` as ``user`` and wait for it. When the waiting is cancelled, the action still runs to its end."""
        return await asyncio.wrap_future(self.submit(user, action, *args, **kwargs))

    async def find_user(self, named: str | None, default: str) -> Account:
        """Who acts: the user whom the client named, with that user's rights, else the default one, unrestricted.

        Raises: AuthenticationError.
        """
        account = await self.run(ROOT, find_account, named or default)
        return account if named else Unrestricted(**vars(account))

    async def end(self, _app: object) -> None:
        """When an application ends: take no more work."""
        self.close()

    def close(self) -> None:
        """Take no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)
