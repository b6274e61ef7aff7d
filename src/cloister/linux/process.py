"""Processes by handle: pidfds, which cannot name a later process by mistake. Source: pidfd_open(2), proc(5)."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

__all__ = ["kill_pidfd", "open_pidfd", "pid_of_pidfd", "start_ticks", "wait_pidfd"]


def pid_of_pidfd(pidfd: int) -> int:
    """The process id, as the caller sees it; -1 when the process has been reaped, 0 when it is out of sight."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    return -1


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; with the pid it names a process for ever. None: no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])


def kill_pidfd(pidfd: int) -> None:
    """SIGKILL; nothing happens when the process is gone already."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return


def wait_pidfd(pidfd: int, timeout_s: float) -> bool:
    """Whether the process ended within ``timeout_s``. For the first process of a pid namespace: all of its processes ended."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(int(timeout_s * 1000)))


def open_pidfd(pid: int, expected_start_ticks: int) -> int | None:
    """A pidfd of the process that had this pid and start time; None when that process is gone. The caller closes it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if start_ticks(pid) != expected_start_ticks:
        os.close(pidfd)
        return None
    return pidfd
