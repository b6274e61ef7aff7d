"""Kernel memory that no control group is charged for: socket buffers and file locks. Reads how much each process uses; no policy.

Runs in: supervisor, in a worker thread. Needs: root, in the host's pid namespace.
Source: proc(5), tcp(7) for ``tcp_mem``, udp(7) for ``udp_mem``, fs/locks.c (its cache of locks has no SLAB_ACCOUNT).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

__all__ = ["is_socket_memory_short", "lock_owners", "mounted_devices", "queued_bytes"]

_PROC = Path("/proc")
_PRESSURE = 1
"""Index in ``tcp_mem`` and ``udp_mem`` of the value from which the kernel restricts every socket of the host."""
_TABLES = ("tcp", "tcp6", "udp", "udp6")


def is_socket_memory_short(proc: Path = _PROC) -> bool:
    """Whether TCP or UDP buffers use so much memory that the kernel restricts all sockets of the host. Raises: OSError."""
    used = {}
    for line in (proc / "net/sockstat").read_text().splitlines():
        protocol, _, rest = line.partition(": ")
        words = rest.split()
        if "mem" in words:
            used[protocol] = int(words[words.index("mem") + 1])
    limits = {name: (proc / f"sys/net/ipv4/{name.lower()}_mem").read_text().split() for name in ("TCP", "UDP")}
    return any(used.get(name, 0) > int(limit[_PRESSURE]) for name, limit in limits.items())


def queued_bytes(pids: Iterable[int], proc: Path = _PROC) -> int:
    """Bytes queued in the TCP and UDP sockets of one network namespace, in both directions, also in connections not yet accepted.

    All ``pids`` are in that namespace. A process whose main thread ended shows no sockets, so the next one is read.
    """
    for pid in sorted(pids):
        with contextlib.suppress(OSError):
            return sum(_queued(proc / str(pid) / "net" / table) for table in _TABLES)
    return 0


def _queued(table: Path) -> int:
    if not table.exists() and table.name != _TABLES[0]:
        return 0  # a kernel without IPv6
    total = 0
    with table.open() as lines:
        for line in islice(lines, 1, None):
            sent, _, received = line.split()[4].partition(":")
            total += int(sent, 16) + int(received, 16)
    return total


def lock_owners(most: int, proc: Path = _PROC) -> Counter[tuple[int, str]]:
    """Owners of the first ``most`` file locks of the host, of any kind: process id and device of the file (hexadecimal ``major:minor``).

    The process is the one that took the lock; a lock of flock(2) can outlive it. ``most`` bounds the read, because the kernel walks the
    whole list before each line. Raises: OSError.
    """
    found = Counter[tuple[int, str]]()
    with (proc / "locks").open() as lines:
        for line in islice(lines, most):
            words = [word for word in line.split() if word != "->"]  # "->" marks a lock that waits, one for each lock it waits behind
            found[int(words[4]), words[5].rpartition(":")[0]] += 1
    return found


def mounted_devices(pids: Iterable[int], proc: Path = _PROC) -> set[str]:
    """Devices mounted in the mount namespace of ``pids``, in the form of :func:`lock_owners`."""
    for pid in sorted(pids):
        with contextlib.suppress(OSError):
            lines = (proc / str(pid) / "mountinfo").read_text().splitlines()
            return {"{:02x}:{:02x}".format(*map(int, line.split()[2].split(":"))) for line in lines}
    return set()
