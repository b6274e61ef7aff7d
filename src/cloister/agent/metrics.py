"""The answer to GET /metrics of port 49983, from the sandbox's own cgroup and file system. The processor share is since the last call."""

from __future__ import annotations

import os
import time
from typing import Any

from cloister.agent.cgroup import Cgroup
from cloister.agent.state import AgentState

__all__ = ["Metrics"]

_MIB = 1 << 20


class Metrics:
    """Keeps the last sample of processor time, from which the share is computed."""

    def __init__(self, cgroup: Cgroup, state: AgentState) -> None:
        self._cgroup = cgroup
        self._state = state
        self.begin()

    def begin(self) -> None:
        """Start to count processor time."""
        self._sampled_at = time.monotonic()
        self._cpu_ns = self._cgroup.cpu_used_ns() or 0

    def read(self) -> dict[str, Any]:
        """The answer's fields, without those that cannot be read. ``cpu_used_pct`` is relative to one processor: two busy ones give 200."""
        disk = os.statvfs("/")
        used = self._cgroup.memory_used_bytes()
        cache = self._cgroup.memory_cache_bytes()
        limits = self._state.document.limits
        total = limits.mem_mib * _MIB
        values = {
            "ts": int(time.time()),
            "cpu_count": max(1, round(limits.cpu_count)),
            "cpu_used_pct": self._cpu_share_pct(),
            "mem_total": total,
            "mem_used": used,
            "mem_cache": cache,
            "mem_total_mib": total // _MIB,
            "mem_used_mib": None if used is None else used // _MIB,
            "disk_used": (disk.f_blocks - disk.f_bfree) * disk.f_frsize,
            "disk_total": disk.f_blocks * disk.f_frsize,
        }
        return {name: value for name, value in values.items() if value is not None}

    def oom_kills(self) -> int | None:
        """The number of processes that were killed so far because memory ran out."""
        return self._cgroup.oom_kills()

    def _cpu_share_pct(self) -> float:
        now, cpu_ns = time.monotonic(), self._cgroup.cpu_used_ns() or 0
        elapsed_s, spent_ns = now - self._sampled_at, cpu_ns - self._cpu_ns
        elapsed_s = max(elapsed_s, 0.05)
        self._sampled_at, self._cpu_ns = now, cpu_ns
        return round(max(0.0, spent_ns / (elapsed_s * 1e7)), 2)
