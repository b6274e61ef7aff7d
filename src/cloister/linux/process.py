"""Processes by pidfd, which never refers to a later process with the same id.

Runs in: supervisor, census. Needs: CAP_KILL for processes of other users. Source: pidfd_open(2), proc(5).
"""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

__all__ = ["count_descriptors", "descriptor_limit", "kill_pidfd", "open_pidfd", "pid_of_pidfd", "start_ticks", "wait_pidfd"]


def pid_of_pidfd(pidfd: int) -> int:
    """The process id in the caller's pid namespace; -1 if the process was reaped, 0 if the namespace does not show it."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    return -1


def start_ticks(pid: int) -> int | None:
    """Start time in clock ticks since boot. Together with the pid it identifies a process uniquely. None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])


def count_descriptors(pid: int) -> int | None:
    """How many descriptors the process has open; None if it has ended, or is of another user and the caller lacks CAP_SYS_PTRACE."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def descriptor_limit(pid: int) -> int | None:
    """How many descriptors the process may have open (its soft limit); None if it has ended.

    Read from its ``limits`` file, as prlimit(2) takes CAP_SYS_RESOURCE for a process of another user. Source: proc_pid_limits(5).
    """
    try:
        text = Path(f"/proc/{pid}/limits").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    soft = next((line.split()[3] for line in text.splitlines() if line.startswith("Max open files")), None)
    return None if soft is None else int(soft)  # the file is empty while the process is being reaped


def kill_pidfd(pidfd: int) -> None:
    """Send SIGKILL. Does nothing if the process has ended."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return


def wait_pidfd(pidfd: int, timeout_s: float) -> bool:
    """Whether the process ended within ``timeout_s``. For pid 1 of a pid namespace: whether all its processes ended."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(int(timeout_s * 1000)))


def open_pidfd(pid: int, expected_start_ticks: int) -> int | None:
    """A pidfd of the process with this pid and start time; None if it has ended. The caller closes it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if start_ticks(pid) != expected_start_ticks:
        os.close(pidfd)
        return None
    return pidfd
