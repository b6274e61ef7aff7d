"""Starts a program: its descriptors or terminal, its user, its session. Does not wait for the program.

The program leads its own session. The agent's ends of the descriptors are non-blocking, the program's are not. Starting blocks for fork and
exec, about a millisecond.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cloister.agent.accounts import Account
from cloister.agent.process.faults import start_fault
from cloister.agent.process.output import PTY, STDERR, STDOUT
from cloister.agent.process.script import MAX_ARGUMENT_BYTES, find_script, size_of, to_memory
from cloister.agent.process.spawn import spawn
from cloister.errors import InvalidRequestError

__all__ = ["Launch", "Started", "launch", "set_size"]

_TTY_GROUP = 5
_MAX_SIZE = 65535
_AT_MOST = f"Linux takes at most {MAX_ARGUMENT_BYTES}"
_IUTF8 = 0o40000
"""Not in Python's termios: erase whole characters in the line discipline. Source: asm-generic/termbits.h."""
_OOM_SCORE = b"600"
"""Higher than the agent's 500: when memory runs out a program is killed first, and the agent can report why."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The program to start. ``size`` (columns, rows): on a terminal of that size; else with pipes, and ``stdin`` is one or /dev/null.

    ``inherited``: descriptors that the program gets besides the standard ones, under the same numbers.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    account: Account
    stdin: bool = False
    size: tuple[int, int] | None = None
    inherited: tuple[int, ...] = ()


@dataclass
class Started:
    """A started program and the agent's ends. ``outputs`` maps descriptors to kinds of output; for a terminal ``stdin`` is one of them."""

    process: subprocess.Popen[bytes]
    pidfd: int
    stdin: int | None
    outputs: dict[int, int] = field(default_factory=dict)


def launch(what: Launch) -> Started:
    """Start it. The caller owns the descriptors.

    Raises: InvalidRequestError (it cannot be executed), LimitError (no more processes, descriptors or memory), ConflictError (the program
        file is open for writing), InternalError.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        try:
            fitting = _fit(what, theirs)
            started = (_on_terminal if what.size else _on_pipes)(fitting, ours, theirs)
            started.pidfd = os.pidfd_open(started.process.pid)
        except OSError as error:
            raise start_fault(error, what.argv[0], what.cwd) from error
        except MemoryError as error:
            raise start_fault(OSError(errno.ENOMEM, ""), what.argv[0], what.cwd) from error
        ours.pop_all()
    with contextlib.suppress(OSError):  # it may have ended; otherwise it is only less likely to be killed first
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


def _fit(what: Launch, theirs: contextlib.ExitStack) -> Launch:
    """``what`` in a form that the kernel accepts: a script that is too long for an argument goes into a memory file.

    Raises: InvalidRequestError, OSError.
    """
    if not what.argv[0] or any("\0" in word for word in what.argv):
        raise InvalidRequestError("the command is empty or has a NUL character in it")
    for name, value in what.env.items():
        if (size := size_of(name) + 1 + size_of(value)) > MAX_ARGUMENT_BYTES:
            raise InvalidRequestError(f"the variable '{name[:200]}' has {size} bytes with its name; {_AT_MOST}")
    script = find_script(what.argv)
    for place, word in enumerate(what.argv):
        if (size := size_of(word)) <= MAX_ARGUMENT_BYTES:
            continue
        if place != script:
            raise InvalidRequestError(f"argument {place} has {size} bytes; {_AT_MOST} (only a script of bash -c may be longer)")
        memory, short = to_memory(word)
        theirs.callback(os.close, memory)
        what = replace(what, argv=(*what.argv[:place], short, *what.argv[place + 1 :]), inherited=(memory,))
    return what


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
    stdin, stdout, stderr = standard
    more |= {"stdin": stdin, "stdout": stdout, "stderr": stderr, "cwd": what.cwd, "pass_fds": what.inherited}
    return spawn(what.argv, what.env, what.account, **more)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
