"""The files that tell a sandbox its memory, its processors and its identity: its own, not the host's (I3).

They are written once, when the sandbox is made. Totals are true; counters of the host's activity are zero.
Runs in: supervisor and builds. Needs: nothing.
"""

from __future__ import annotations

import time
from pathlib import Path

from cloister.model.resources import Limits

__all__ = ["replaced_files", "written_files"]


def replaced_files(limits: Limits, cpus: list[int], boot_id: str) -> dict[str, str]:
    """Content of files below /proc, by name."""
    total_kib = limits.mem_mib * 1024
    meminfo = {"MemTotal": total_kib, "MemFree": total_kib, "MemAvailable": total_kib, "Buffers": 0, "Cached": 0, "SwapCached": 0}
    meminfo |= {"Active": 0, "Inactive": 0, "SwapTotal": 0, "SwapFree": 0, "Dirty": 0, "Writeback": 0, "AnonPages": 0, "Mapped": 0}
    meminfo |= {"Shmem": 0, "Slab": 0, "SReclaimable": 0, "CommitLimit": total_kib, "Committed_AS": 0}
    zeros = " 0" * 10
    stat = f"cpu {zeros}\n" + "".join(f"cpu{n}{zeros}\n" for n in range(len(cpus)))
    stat += f"intr 0\nctxt 0\nbtime {int(time.time()) - 1}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n"
    return {
        "meminfo": "".join(f"{name + ':':<16}{value:>8} kB\n" for name, value in meminfo.items()),
        "cpuinfo": _cpuinfo(len(cpus)),
        "stat": stat,
        "loadavg": "0.00 0.00 0.00 1/1 1\n",
        "sys/kernel/random/boot_id": f"{boot_id}\n",
    }


def written_files(cpus: list[int]) -> dict[str, str]:
    """Content of the files below /sys from which programs count processors, by path."""
    span = "0\n" if len(cpus) == 1 else f"0-{len(cpus) - 1}\n"
    return {f"/sys/devices/system/cpu/{name}": span for name in ("online", "possible", "present")}


def _cpuinfo(count: int) -> str:
    entries = Path("/proc/cpuinfo").read_text().strip().split("\n\n")
    return "\n\n".join(entries[:count]) + "\n\n"
