"""Sizes of the host's memory from /proc/meminfo.

Runs in: supervisor, ``cloister doctor``, ``cloister status``. Needs: /proc. Source: proc_meminfo(5).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["HostMemory", "host_memory", "memory_mib"]

_FILE = Path("/proc/meminfo")


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """The host's memory now, in bytes."""

    total: int
    available: int
    """An estimate of the kernel: what programs can take before it has to swap."""
    swap_total: int
    swap_free: int


def host_memory(path: Path = _FILE) -> HostMemory:
    """The host's memory now. One short read, without a wait."""
    fields = _fields(path)
    return HostMemory(
        total=fields["MemTotal"], available=fields["MemAvailable"], swap_total=fields["SwapTotal"], swap_free=fields["SwapFree"]
    )


def memory_mib(field: str) -> int:
    """The value of ``field`` (``MemTotal``, ``MemAvailable``) in MiB."""
    return _fields(_FILE)[field] >> 20


def _fields(path: Path) -> dict[str, int]:
    """Every field, in bytes."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * (1024 if words[-1] == "kB" else 1) for words in lines}
