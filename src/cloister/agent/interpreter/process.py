"""A kernel's operating-system process: how it is started, signalled with all its children, measured and ended.

It owns the process, its pidfd, the protocol socket and the two output pipes. It knows nothing of the protocol. The process
leads a session of its own; "the tree" is that session and every descendant, so a child that left the session is still found.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloister.errors import InvalidRequestError, UnavailableError

__all__ = ["KernelProcess", "LaunchSpec"]

_CHANNEL_FD = 3
_OOM_SCORE = "600"
"""Above the agent's: when memory runs out the kernel goes first, and the agent can say why."""
_CLOCK_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """What to start, as whom and where."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    user: str


class KernelProcess:
    """A started process."""

    def __init__(self, spec: LaunchSpec) -> None:
        """Start it.

        Raises: InvalidRequestError (no such directory or user), UnavailableError (it cannot be executed).
        """
        account = _account(spec.user)
        if not Path(spec.cwd).is_dir():
            raise InvalidRequestError(f"The working directory '{spec.cwd}' does not exist")
        with contextlib.ExitStack() as undo:
            self.channel, theirs = socket.socketpair()
            undo.callback(self.channel.close)
            self.stdout_fd, out = os.pipe()
            self.stderr_fd, err = os.pipe()
            undo.callback(os.close, self.stdout_fd)
            undo.callback(os.close, self.stderr_fd)
            try:
                self._process = _spawn(spec, account, theirs.fileno(), out, err)
            except OSError as error:
                raise UnavailableError(f"Cannot start {spec.argv[0]}: {error.strerror or error}") from error
            finally:
                theirs.close()
                os.close(out)
                os.close(err)
            self.pidfd = os.pidfd_open(self._process.pid)
            undo.pop_all()
        self.pid = self._process.pid
        self.channel.setblocking(False)
        os.set_blocking(self.stdout_fd, False)
        os.set_blocking(self.stderr_fd, False)
        _write(f"/proc/{self.pid}/oom_score_adj", _OOM_SCORE)

    def returncode(self) -> int | None:
        """None while it runs; otherwise the exit code, or minus the signal that ended it. Reaps it."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Signal the process alone."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def signal_tree(self, number: int) -> None:
        """Signal the process and everything below it."""
        for pid in _tree(self.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def kill_tree(self) -> None:
        """SIGKILL for the whole tree; repeated, since a process may fork between being seen and being killed."""
        for _ in range(20):
            pids = _tree(self.pid)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                return

    def close(self) -> None:
        """Kill what is left, reap, and close the descriptors."""
        self.kill_tree()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self.channel.close()
        for fd in (self.stdout_fd, self.stderr_fd, self.pidfd):
            os.close(fd)

    def cpu_ns(self) -> int | None:
        """Processor time of the process and of the children it has waited for."""
        try:
            own = time.clock_gettime_ns((~self.pid << 3) | 2)  # the process clock of another pid: clock_getcpuclockid(3)
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        fields = stat[stat.rindex(")") + 2 :].split()
        return own + (int(fields[13]) + int(fields[14])) * _CLOCK_TICK_NS

    def reset_peak(self) -> None:
        """Begin to measure the peak anew. Source: proc_pid_clear_refs(5), value 5."""
        _write(f"/proc/{self.pid}/clear_refs", "5")

    def peak_bytes(self) -> int | None:
        """The largest resident size since :meth:`reset_peak`."""
        try:
            with Path(f"/proc/{self.pid}/status").open(encoding="ascii", errors="replace") as status:
                for line in status:
                    if line.startswith("VmHWM:"):
                        return int(line.split()[1]) * 1024
        except OSError:
            return None
        return None


def _account(user: str) -> pwd.struct_passwd | None:
    """None: stay as we are."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        if user == "root":
            return None  # an image without /etc/passwd
        raise InvalidRequestError(f"The kernels' user '{user}' does not exist in this sandbox") from None
    return None if account.pw_uid == os.getuid() else account


def _spawn(spec: LaunchSpec, account: pwd.struct_passwd | None, channel: int, out: int, err: int) -> subprocess.Popen[bytes]:
    env = {**spec.env, "CLOISTER_KERNEL_FD": str(_CHANNEL_FD)}

    def place_channel() -> None:
        os.dup2(channel, _CHANNEL_FD, inheritable=True)

    return subprocess.Popen(
        list(spec.argv),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        cwd=spec.cwd,
        env=env,
        start_new_session=True,
        pass_fds=(_CHANNEL_FD,),
        preexec_fn=place_channel,  # noqa: PLW1509  # the agent has one thread, so this is safe
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=os.getgrouplist(account.pw_name, account.pw_gid) if account else None,
        umask=0o022,
    )


def _tree(root: int) -> list[int]:
    """The pids of the session that ``root`` leads and of all descendants, zombies left out."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for pid, parent, session in _processes():
        parents[pid] = parent
        if root in (session, pid):
            found.add(pid)
    growing = True
    while growing:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        growing = bool(more)
    return sorted(found)


def _processes() -> Iterator[tuple[int, int, int]]:
    """(pid, parent, session) of every live process that we see."""
    for entry in os.listdir("/proc"):  # noqa: PTH208  # names, not paths: this is done while code waits to be stopped
        if not entry.isdigit():
            continue
        try:
            text = Path(f"/proc/{entry}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        fields = text[text.rindex(")") + 2 :].split()
        if fields[0] not in ("Z", "X"):
            yield int(entry), int(fields[1]), int(fields[3])


def _write(path: str, text: str) -> None:
    """Write to a /proc file; without it the kernel is only less well measured or less likely to be the one that is killed."""
    with contextlib.suppress(OSError):
        Path(path).write_text(text, encoding="ascii")
