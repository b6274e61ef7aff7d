"""Stops a sandbox's kernel and its gofer, and lets them go on, by the signals SIGSTOP and SIGCONT; for :class:`Stillness`.

The freezer of the control group would stop the processes that gVisor's platform runs programs in, too. Each of them waits for its kernel in
a system call that the freezer breaks off and begins again, and the kernel counts one notice for each beginning (seccomp_unotify(2)). A
``runsc`` that gets a notice too many gives the process up, and the sandbox ends. So these processes are left alone: they wait, and use
no processor time, because ``runsc pause`` has stopped what ran in them.
Runs in: supervisor and builds, in worker threads. Needs: CAP_KILL. Source: signal(7), proc(5), pid_namespaces(7).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from cloister.errors import DeadlineError
from cloister.linux.process import open_pidfd
from cloister.runtime.gvisor.client import Box, Member

__all__ = ["Halt"]

_POLL_S, _POLL_MAX_S = 0.0002, 0.005
_STOPPED, _ENDED = "Tt", "ZX"


class Halt:
    """Of one sandbox. A process that has ended counts as standing still, and as not asked to; a later one with its id is not meant."""

    def __init__(self, box: Box) -> None:
        self._members = (box.kernel, box.gofer)

    def is_frozen(self, _name: str) -> bool:
        """Whether no thread of the processes runs."""
        return all(set(_states(member)) <= set(_STOPPED + _ENDED) for member in self._members)

    def is_to_freeze(self, _name: str) -> bool:
        """Whether a process was stopped, and not continued since."""
        return any(set(_states(member)) & set(_STOPPED) for member in self._members)

    def freeze(self, name: str, timeout_s: float) -> None:
        """Stop them until :meth:`thaw`. Raises: DeadlineError (they run on then), OSError."""
        deadline, pause_s = time.monotonic() + timeout_s, _POLL_S
        try:
            self._send(signal.SIGSTOP)
            while not self.is_frozen(name):
                if time.monotonic() > deadline:
                    raise DeadlineError(f"the processes of {name} did not stop within {timeout_s:g} s")
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _POLL_MAX_S)
        except BaseException:
            self.thaw(name)
            raise

    def thaw(self, _name: str) -> None:
        """Let them go on. Does nothing if they run or have ended. Raises: OSError."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        for member in self._members:
            pidfd = open_pidfd(member.pid, member.start_ticks)
            if pidfd is None:
                continue
            try:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, number)
            finally:
                os.close(pidfd)


def _states(member: Member) -> Iterator[str]:
    """The state of each thread, as proc(5) has it; none if the process has ended and was reaped."""
    pidfd = open_pidfd(member.pid, member.start_ticks)
    if pidfd is None:
        return
    os.close(pidfd)
    for task in Path(f"/proc/{member.pid}/task").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            yield (task / "stat").read_text().rpartition(")")[2].split()[0]
