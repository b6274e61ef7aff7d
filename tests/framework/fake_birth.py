"""The part of supervisor and pid 1 for an agent's forked kernel: a socket to a kernel, and a pipe that reports ends of orphans."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["FakeNursery", "nursery"]

_PROGRAM = Path(__file__).with_name("fake_forked.py")


class FakeNursery:
    """Kernels that are forked for a test. They are reaped here and reported on ``orphans`` (a reading end)."""

    def __init__(self) -> None:
        self.orphans, self._tell = os.pipe()
        os.set_blocking(self._tell, False)
        self._stack = contextlib.ExitStack()
        self.pids: list[int] = []
        self.tells = True
        """Whether ends are told."""

    def fork(self, *arguments: str) -> socket.socket:
        """A kernel; its agent's end of the socket."""
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs, theirs.dup() as away:

            def place() -> None:
                os.dup2(away.fileno(), 3, inheritable=True)

            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_PROGRAM), *arguments],
                stdin=subprocess.DEVNULL,
                env={},
                start_new_session=True,
                pass_fds=(3,),
                preexec_fn=place,  # noqa: PLW1509 - it only moves a descriptor
            )
        self.pids.append(process.pid)
        reaping = threading.Thread(target=self._reap, args=(process,))
        reaping.start()
        self._stack.callback(reaping.join)
        self._stack.callback(_kill, process.pid)
        self._stack.callback(ours.close)
        return ours

    def say(self, pid: int, status: int) -> None:
        """Tell of the end of some orphan."""
        os.write(self._tell, struct.pack("=ii", pid, status))

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if self.tells:
            self.say(process.pid, -code if code < 0 else code << 8)

    def close(self) -> None:
        """End all kernels."""
        self._stack.close()
        os.close(self.orphans)
        os.close(self._tell)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def nursery() -> Iterator[FakeNursery]:
    """One nursery; everything ends with the test."""
    made = FakeNursery()
    yield made
    made.close()
