"""The host's memory. Source: proc(5), /proc/meminfo."""

from __future__ import annotations

from pathlib import Path

__all__ = ["memory_mib"]


def memory_mib(field: str) -> int:
    """What ``/proc/meminfo`` says of ``field`` (``MemTotal``, ``MemAvailable``), in MiB."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields[field].split()[0]) // 1024
