"""Limits of a sandbox, with their units. Plain data: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one sandbox may use (invariant I6)."""

    cpu_count: float = 2.0
    mem_mib: int = 1024
    disk_mib: int = 5120
    inodes: int = 500_000
    pids: int = 512
    open_files: int = 65_536
    output_mib: int = 256
    """Output of one execution, stdout and stderr together, before it is ended with an error."""
