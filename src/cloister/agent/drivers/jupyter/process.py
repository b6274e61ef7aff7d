"""The kernel's process: starts it, interrupts it, stops it while its output waits for a reader, and reports its end.

It is a child in its own process group, in the bridge's session: the end of the session ends it, and a signal to its group reaches its
children.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

__all__ = ["KernelChild", "end_like"]


class KernelChild:
    """A running kernel."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Raises: OSError: it cannot be executed."""
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=dict(env), process_group=0, umask=0o022
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.pipes = {self._process.stdout.fileno(), self._process.stderr.fileno()}
        """Give its descriptors 1 and 2, as long as a process can write to them."""
        for fd in self.pipes:
            os.set_blocking(fd, False)
        self.pidfd = os.pidfd_open(self._process.pid)
        self.held = False
        """Whether it was stopped by :meth:`hold`."""

    def returncode(self) -> int | None:
        """None while it runs; its exit code or minus its signal afterwards."""
        return self._process.poll()

    def is_at_rest(self) -> bool:
        """Whether all threads of it and its descendants sleep."""
        return not any(_busy_threads(pid) for pid in [self._process.pid, *_descendants(self._process.pid)])

    def hold(self, hold: bool) -> None:
        """Stop the processes of its group, or let them continue."""
        if hold != self.held:
            self.held = hold
            self._signal_group(signal.SIGSTOP if hold else signal.SIGCONT)

    def interrupt(self, *, itself: bool, below: bool) -> None:
        """Send SIGINT to its group, or, ``below``, to all its descendants; without ``itself`` not to the kernel."""
        if below or not itself:
            for pid in _descendants(self._process.pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGINT)
        if itself:
            self._signal_group(signal.SIGINT)
        if self.held:
            self._signal_group(signal.SIGCONT)
            self.held = False

    def _signal_group(self, number: int) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)


def end_like(code: int) -> NoReturn:
    """End this process in the same way as one with that return code, so that the agent sees the kernel's own end."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF if code >= 0 else 1)


def _busy_threads(pid: int) -> bool:
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            if (task / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] in "RD":
                return True
    return False


def _descendants(root: int) -> list[int]:
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                children = [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
                found += children
                todo += children
    return found
