"""Starting a program: its descriptors or terminal, its user, its session. Nothing here waits for it.

The program leads a session of its own. The parent's descriptors are non-blocking, the child's are not. Starting blocks for the fork
and exec, about a millisecond.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloister.agent.accounts import Account
from cloister.agent.process.output import PTY, STDERR, STDOUT
from cloister.errors import InvalidRequestError, LimitError

__all__ = ["Launch", "Started", "launch", "set_size"]

_TTY_GROUP = 5
_MAX_SIZE = 65535
_IUTF8 = 0o40000
"""Not in Python's termios: erase whole characters in the line discipline. Source: asm-generic/termbits.h."""
_OOM_SCORE = b"600"
"""Above the agent's 500: when memory runs out a program goes first, and the agent can say why."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What to start. ``size`` (columns, rows): on a terminal of that size; otherwise with pipes, ``stdin`` being one or /dev/null."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    account: Account
    stdin: bool = False
    size: tuple[int, int] | None = None


@dataclass
class Started:
    """A started program and our ends: ``outputs`` maps descriptors to the kind of output; with a terminal ``stdin`` is one of them."""

    process: subprocess.Popen[bytes]
    pidfd: int
    stdin: int | None
    outputs: dict[int, int] = field(default_factory=dict)


def launch(what: Launch) -> Started:
    """Start it. The caller owns the descriptors.

    Raises: InvalidRequestError (it cannot be executed), LimitError (no more processes, descriptors or memory).
    """
    if any("\0" in word for word in what.argv) or not what.argv[0]:
        raise InvalidRequestError("the command is empty or has a NUL character in it")
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        try:
            start = _on_terminal if what.size else _on_pipes
            started = start(what, ours, theirs)
            started.pidfd = os.pidfd_open(started.process.pid)
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            raise InvalidRequestError(f"cannot run '{what.argv[0]}': {_reason(error, what)}") from None
        except (BlockingIOError, MemoryError) as error:
            raise LimitError(f"cannot start another process: the sandbox is at its limit of processes or memory ({error})") from error
        except OSError as error:
            raise LimitError(f"cannot start another process: {error.strerror}") from error
        ours.pop_all()
    with contextlib.suppress(OSError):  # it may have ended; without this it is only less likely to be the one that is killed
        _write(f"/proc/{started.process.pid}/oom_score_adj", _OOM_SCORE)
    for fd in started.outputs:
        os.set_blocking(fd, False)
    if started.stdin is not None:
        os.set_blocking(started.stdin, False)
    return started


def set_size(terminal: int, size: tuple[int, int]) -> None:
    """Resize a terminal; its foreground program gets SIGWINCH.

    Raises: InvalidRequestError.
    """
    columns, rows = size
    if not (0 <= columns <= _MAX_SIZE and 0 <= rows <= _MAX_SIZE):
        raise InvalidRequestError(f"a terminal has at most {_MAX_SIZE} columns and rows")
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _on_pipes(what: Launch, ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> Started:
    out, child_out = _pipe(ours, theirs)
    err, child_err = _pipe(ours, theirs)
    stdin, child_in = None, subprocess.DEVNULL
    if what.stdin:
        child_in, stdin = os.pipe()
        theirs.callback(os.close, child_in)
        ours.callback(os.close, stdin)
    process = _spawn(what, (child_in, child_out, child_err))
    return Started(process, -1, stdin, {out: STDOUT, err: STDERR})


def _on_terminal(what: Launch, ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> Started:
    terminal, child = os.openpty()
    ours.callback(os.close, terminal)
    theirs.callback(os.close, child)
    attributes = termios.tcgetattr(child)
    attributes[0] |= _IUTF8
    termios.tcsetattr(child, termios.TCSANOW, attributes)
    if what.size is not None:
        set_size(terminal, what.size)
    if os.getuid() == 0:
        os.fchown(child, what.account.uid, _TTY_GROUP)

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = _spawn(what, (child, child, child), preexec_fn=take_terminal)
    return Started(process, -1, terminal, {terminal: PTY})


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe()
    ours.callback(os.close, reading)
    theirs.callback(os.close, writing)
    return reading, writing


def _spawn(what: Launch, standard: tuple[int, int, int], **more: Any) -> subprocess.Popen[bytes]:
    account = what.account
    if os.getuid() == 0 and account.uid != 0:  # for root nothing changes, and without a change the fork is a vfork
        more |= {"user": account.uid, "group": account.gid, "extra_groups": account.groups}
    stdin, stdout, stderr = standard
    return subprocess.Popen(
        list(what.argv),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=what.cwd,
        env=dict(what.env),
        start_new_session=True,
        umask=0o022,
        **more,
    )


def _reason(error: OSError, what: Launch) -> str:
    if isinstance(error, FileNotFoundError) and "/" not in what.argv[0]:
        return "there is no such command in PATH"
    return (error.strerror or str(error)).lower()


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
