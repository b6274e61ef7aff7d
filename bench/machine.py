"""Describes the machine and measures its use: load, free memory, processor time of the host and of processes.

Reads /proc only. Source: proc(5).
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_LOOK_S = 2.0
BUSY_PERCENT = 15.0
"""Share of all processors. Above it another program is busy, and the times are not reliable."""


@dataclass(frozen=True)
class Load:
    """The load of other programs before ours ran: load average, and processor time in percent of the whole machine."""

    load_1_min: float
    busy_percent: float

    @property
    def is_busy(self) -> bool:
        """Whether another program is busy."""
        return self.busy_percent > BUSY_PERCENT


def meminfo_mib(name: str) -> float:
    """A field of /proc/meminfo, such as ``MemAvailable``."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def available_mib() -> float:
    """The host's MemAvailable."""
    return meminfo_mib("MemAvailable")


def busy_s() -> float:
    """Processor time of the whole host since its start, all processors together, without waits for disks."""
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) * _TICK_S


def process_cpu_s(pid: int) -> float:
    """Processor time of a process with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def memory_monitor_cpu_s() -> float:
    """Processor time of the kernel's own memory monitor (DAMON), which some hosts run: its work grows with their mappings."""
    used = 0.0
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().startswith("kdamond"):
                used += process_cpu_s(int(comm.parent.name))
        except OSError:
            continue  # it has ended
    return used


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def look_at_load() -> Load:
    """Measure the machine for two seconds while our programs are idle."""
    began, before = time.monotonic(), busy_s()
    time.sleep(_LOOK_S)
    used = (busy_s() - before) / (time.monotonic() - began) / (os.cpu_count() or 1)
    return Load(round(os.getloadavg()[0], 2), round(100 * used, 1))


def describe() -> dict[str, object]:
    """A description of the machine and of the measured version."""
    return {
        "processor": _field(Path("/proc/cpuinfo"), "model name", ":") or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(meminfo_mib("MemTotal") / 1024, 1),
        "swap_gib": round(meminfo_mib("SwapTotal") / 1024, 1),
        "kernel": platform.release(),
        "system": _field(Path("/etc/os-release"), "PRETTY_NAME", "=").strip('"'),
        "python": platform.python_version(),
        "commit": _commit(),
    }


def _field(path: Path, name: str, separator: str) -> str:
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(separator)[2].strip() for line in lines if line.startswith(name)), "")


def _commit() -> str:
    root = Path(__file__).parents[1]
    found = subprocess.run(["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
