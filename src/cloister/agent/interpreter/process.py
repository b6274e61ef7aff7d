"""A kernel's operating-system process: signals, measures and ends it with all its children, and starts it.

It owns the process, its pidfd, the protocol socket and the two output pipes, and does not know the protocol. The process leads its own
session; "the tree" is that of process/tree.py. A process is started here, or adopted after its birth (adopted.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloister.agent.accounts import Account
from cloister.agent.process.faults import check_cwd, start_fault
from cloister.agent.process.tree import kill_tree, signal_tree
from cloister.errors import CloisterError, UnavailableError

__all__ = [
    "OOM_SCORE",
    "UNKNOWN_STATUS",
    "BridgedProcess",
    "KernelProcess",
    "LaunchSpec",
    "OutputPipes",
    "StartedProcess",
]

OOM_SCORE = 600
"""Higher than the agent's score: when memory runs out the kernel is killed first, and the agent can report why."""
UNKNOWN_STATUS = 256
"""The return code of an ended process whose status is unknown."""
_CHANNEL_FD = 3
_CLOCK_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_END_MS = 5000


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """The program to start, its user and its directory."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    account: Account


class OutputPipes:
    """The pipes of a kernel's fd 1 and 2; the agent's ends do not block."""

    def __init__(self) -> None:
        self.stdout, self.their_stdout = os.pipe()
        self.stderr, self.their_stderr = os.pipe()
        os.set_blocking(self.stdout, False)
        os.set_blocking(self.stderr, False)

    def close_theirs(self) -> None:
        """Close the kernel's ends in this process."""
        os.close(self.their_stdout)
        os.close(self.their_stderr)

    def close_ours(self) -> None:
        """Close the agent's ends."""
        os.close(self.stdout)
        os.close(self.stderr)


class KernelProcess(ABC):
    """A running process and the agent's ends of its descriptors, which this owns."""

    def __init__(self, pid: int, pidfd: int, channel: socket.socket, pipes: OutputPipes) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel
        self.stdout_fd = pipes.stdout
        self.stderr_fd = pipes.stderr
        self._pipes = pipes
        channel.setblocking(False)

    @abstractmethod
    def returncode(self) -> int | None:
        """None while it runs; otherwise the exit code, or minus the signal that ended it, or UNKNOWN_STATUS."""

    @abstractmethod
    def _release(self) -> None:
        """Free the resources of this kind of process; it has ended."""

    def signal(self, number: int) -> None:
        """Signal the process alone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def signal_tree(self, number: int) -> None:
        """Signal the process and everything below it."""
        signal_tree(self.pid, number)

    def kill_tree(self) -> None:
        """SIGKILL for the process and everything below it."""
        kill_tree(self.pid)

    def _measured(self) -> int:
        """The pid of the process whose cost counts as the run's."""
        return self.pid

    def close(self) -> None:
        """Kill the rest of the tree, wait for its end, and close the descriptors."""
        self.kill_tree()
        self.signal(signal.SIGKILL)
        ending = select.poll()
        ending.register(self.pidfd, select.POLLIN)
        ending.poll(_END_MS)
        self._release()
        self.channel.close()
        self._pipes.close_ours()
        os.close(self.pidfd)

    def cpu_ns(self) -> int | None:
        """Processor time of the process and of the children it has waited for."""
        pid = self._measured()
        try:
            own = time.clock_gettime_ns((~pid << 3) | 2)  # the clock id of another process: clock_getcpuclockid(3)
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        fields = stat[stat.rindex(")") + 2 :].split()
        return own + (int(fields[13]) + int(fields[14])) * _CLOCK_TICK_NS

    def reset_peak(self) -> None:
        """Restart the measurement of the peak. Source: proc_pid_clear_refs(5), value 5."""
        _write(f"/proc/{self._measured()}/clear_refs", "5")

    def peak_bytes(self) -> int | None:
        """The largest resident size since :meth:`reset_peak`."""
        try:
            with Path(f"/proc/{self._measured()}/status").open(encoding="ascii", errors="replace") as status:
                for line in status:
                    if line.startswith("VmHWM:"):
                        return int(line.split()[1]) * 1024
        except OSError:
            return None
        return None


class StartedProcess(KernelProcess):
    """A child of the agent, started by exec."""

    def __init__(self, spec: LaunchSpec) -> None:
        """Start it.

        Raises: InvalidRequestError (no such directory), UnavailableError (it cannot be executed).
        """
        check_cwd(spec.cwd)
        with contextlib.ExitStack() as undo:
            channel, theirs = socket.socketpair()
            undo.callback(channel.close)
            pipes = OutputPipes()
            undo.callback(pipes.close_ours)
            try:
                self._process = _spawn(spec, theirs.fileno(), pipes)
            except OSError as error:
                raise _start_fault(error, spec) from error
            finally:
                theirs.close()
                pipes.close_theirs()
            pidfd = os.pidfd_open(self._process.pid)
            undo.pop_all()
        super().__init__(self._process.pid, pidfd, channel, pipes)
        _write(f"/proc/{self.pid}/oom_score_adj", str(OOM_SCORE))

    def returncode(self) -> int | None:
        """See the base class. Reaps the process."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Signal the process alone."""
        if self._process.poll() is None:
            super().signal(number)

    def _release(self) -> None:
        self._process.wait()


class BridgedProcess(StartedProcess):
    """A started driver whose only child is the kernel."""

    def _measured(self) -> int:
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii").split()
        except OSError:
            return self.pid
        return int(children[0]) if children else self.pid


def _start_fault(error: OSError, spec: LaunchSpec) -> CloisterError:
    """Map the error of a start: directory and variables may be the client's, a missing program is not the request's fault."""
    if error.errno == errno.E2BIG or error.filename == spec.cwd:
        return start_fault(error, spec.argv[0], spec.cwd)
    return UnavailableError(f"Cannot start {spec.argv[0]}: {error.strerror or error}")


def _spawn(spec: LaunchSpec, channel: int, pipes: OutputPipes) -> subprocess.Popen[bytes]:
    env = {**spec.env, "CLOISTER_KERNEL_FD": str(_CHANNEL_FD)}
    account = spec.account if spec.account.uid != os.getuid() else None  # None keeps the agent's own

    def place_channel() -> None:
        os.dup2(channel, _CHANNEL_FD, inheritable=True)

    return subprocess.Popen(
        list(spec.argv),
        stdin=subprocess.DEVNULL,
        stdout=pipes.their_stdout,
        stderr=pipes.their_stderr,
        cwd=spec.cwd,
        env=env,
        start_new_session=True,
        pass_fds=(_CHANNEL_FD,),
        preexec_fn=place_channel,  # noqa: PLW1509 - the agent has one thread, so this is safe
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=account.groups if account else None,
        umask=0o022,
    )


def _write(path: str, text: str) -> None:
    """Write to a /proc file. Best effort: without it the kernel is only measured less well, or less likely to be killed first."""
    with contextlib.suppress(OSError):
        Path(path).write_text(text, encoding="ascii")
