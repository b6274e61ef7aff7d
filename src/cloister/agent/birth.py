r"""Turns a fresh fork of the zygote into the agent of a sandbox: identity, descriptors, environment (docs/decisions/0014-zygotes.md).

    agent -> pid 1   "B" with SCM_CREDENTIALS
    pid 1 -> agent   "env=NAME=value\0…" "cwd=/\0"; descriptors: log, then those from 3 on

Runs in: the child, already inside the sandbox. An error ends the process; then pid 1 starts an agent by exec.
Invariant: state that must differ between sandboxes is not the zygote's.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import time
from collections.abc import Mapping

from cloister.agent.randomness import renew_randomness

__all__ = ["BirthError", "complete_birth", "take_environment"]

_MAX_TEXT_BYTES = 256 << 10
_MAX_FDS = 16
_WAIT_S = 10
_PR_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)


class BirthError(Exception):
    """The child cannot become an agent."""


def complete_birth(birth: socket.socket) -> None:
    """Become the agent that pid 1 asks for. ``birth`` is descriptor 3; only 0, 1 and 2 are open beside it.

    Raises: OSError, BirthError.
    """
    birth.settimeout(_WAIT_S)
    own = struct.pack("=iII", os.getpid(), os.getuid(), os.getgid())
    birth.sendmsg([b"B"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, own)])
    text, descriptors, flags, _ = socket.recv_fds(birth, _MAX_TEXT_BYTES, _MAX_FDS)
    if not text or not descriptors or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise BirthError("pid 1 did not say what to be")
    birth.close()
    _place(descriptors)
    env, cwd = _parse(text)
    take_environment(env)
    os.chdir(cwd)
    _renew()


def take_environment(env: Mapping[str, str]) -> None:
    """Set exactly these variables. Equal ones stay untouched: each change copies pages that all sandboxes share."""
    before = os.environ.get("TZ")
    for name in [name for name in os.environ if name not in env]:
        del os.environ[name]
    for name, value in env.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    if os.environ.get("TZ") != before:
        time.tzset()


def _place(descriptors: list[int]) -> None:
    """The first becomes 1 and 2, the others 3, 4, …; children inherit 0, 1 and 2 only. All higher numbers are closed."""
    above = 3 + len(descriptors)
    log, *others = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in descriptors]
    null = os.open(os.devnull, os.O_RDWR)
    for target, fd in ((0, null), (1, log), (2, log)):
        os.dup2(fd, target, inheritable=True)
    for target, fd in enumerate(others, 3):
        os.dup2(fd, target, inheritable=False)
    os.closerange(3 + len(others), 1024)


def _parse(text: bytes) -> tuple[dict[str, str], str]:
    """Raises: BirthError."""
    env: dict[str, str] = {}
    cwd = "/"
    for entry in os.fsdecode(text).split("\0"):
        key, _, value = entry.partition("=")
        if key == "env":
            name, _, content = value.partition("=")
            env[name] = content
        elif key == "cwd":
            cwd = value
        elif entry:
            raise BirthError(f"pid 1 said {key!r}, which is not known")
    return env, cwd


def _renew() -> None:
    """Renew what must not be the zygote's. The pid may equal the zygote's in its own namespace."""
    renew_randomness()
    if _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0):  # as after an exec; otherwise the zone's root would own this process's /proc files
        raise OSError(ctypes.get_errno(), "prctl PR_SET_DUMPABLE")
