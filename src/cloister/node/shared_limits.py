"""Compares limits of the kernel for the whole host with the sum that all sandboxes of a server may use: for ``cloister doctor``.

Owns nothing; it only reads. Limits of one sandbox are set elsewhere; the table is in docs/threat-model-clients.md, I6.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloister.network.egress import FLOWS_PER_SANDBOX
from cloister.runtime.blocks import SLOTS_PER_BLOCK

__all__ = ["LowLimit", "low_limits"]

_PROC_SYS = Path("/proc/sys")
_INOTIFY_INSTANCES, _INOTIFY_WATCHES, _TERMINALS = 32, 16_384, 64
"""The limits of one sandbox in native/slotmaker.c and slot.c."""
_TERMINALS_OF_HOST = 1024
"""The kernel keeps ``kernel.pty.reserve`` for the host."""
_PROCESSES_OF_HOST = 8192
_MAX_PID_MAX = 4_194_304
_FILE_BYTES = 256
"""The least memory of a sandbox that an open file takes."""


@dataclass(frozen=True)
class LowLimit:
    """A setting of the kernel that is lower than the ``wanted`` value, which all sandboxes may use together."""

    name: str
    value: int
    wanted: int

    @property
    def assignment(self) -> str:
        """The argument for sysctl(8) that raises it."""
        return f"{self.name}={self.wanted}"


def low_limits(sandboxes: int, pids: int, memory_mib: int, proc_sys: Path = _PROC_SYS) -> list[LowLimit]:
    """Settings that so many sandboxes with ``pids`` processes each, on a host with so much memory, could use up.

    A setting that this kernel does not have is left out.
    """
    in_zone = min(sandboxes, SLOTS_PER_BLOCK)
    processes = min(sandboxes * pids + _PROCESSES_OF_HOST, _MAX_PID_MAX)
    wanted = {
        "kernel.pid_max": processes,
        "kernel.threads-max": processes,
        "kernel.pty.max": sandboxes * _TERMINALS + _TERMINALS_OF_HOST,
        "fs.file-max": (memory_mib << 20) // _FILE_BYTES,
        "fs.inotify.max_user_instances": in_zone * _INOTIFY_INSTANCES,
        "fs.inotify.max_user_watches": in_zone * _INOTIFY_WATCHES,
        "net.netfilter.nf_conntrack_max": 2 * sandboxes * FLOWS_PER_SANDBOX,
    }
    found = []
    for name, amount in wanted.items():
        path = proc_sys / name.replace(".", "/")
        if path.exists() and (value := int(path.read_text())) < amount:
            found.append(LowLimit(name, value, amount))
    return found
