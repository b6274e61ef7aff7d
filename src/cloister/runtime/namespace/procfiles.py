"""What files of a sandbox say of memory and processors, its own limits, not the host's, and of who it is (I3).

The files are written once, when the sandbox is made: totals are true, counters of the host's activity are zero.
"""

from __future__ import annotations

import math
import os
import time
import uuid
from pathlib import Path

from cloister.model.resources import Limits

__all__ = ["own_files", "processors", "replaced_files", "written_files"]


def processors(limits: Limits, index: int) -> list[int]:
    """The host processors that sandbox number ``index`` may run on; neighbours start on different ones."""
    available = sorted(os.sched_getaffinity(0))
    count = min(len(available), max(1, math.ceil(limits.cpu_count)))
    return sorted(available[(index + offset) % len(available)] for offset in range(count))


def replaced_files(limits: Limits, cpus: list[int]) -> dict[str, str]:
    """Names below /proc and what they hold."""
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
        "sys/kernel/random/boot_id": f"{uuid.uuid4()}\n",
    }


def written_files(cpus: list[int]) -> dict[str, str]:
    """Files below /sys that programs read to count processors."""
    span = "0\n" if len(cpus) == 1 else f"0-{len(cpus) - 1}\n"
    return {f"/sys/devices/system/cpu/{name}": span for name in ("online", "possible", "present")}


def own_files(hostname: str) -> dict[str, str]:
    """Files of a sandbox that is known as ``hostname``, instead of its template's; the name leads to the sandbox itself."""
    return {
        "/etc/hostname": f"{hostname}\n",
        "/etc/hosts": f"127.0.0.1 localhost\n127.0.0.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\n",
        "/etc/machine-id": f"{uuid.uuid4().hex}\n",
    }


def _cpuinfo(count: int) -> str:
    entries = Path("/proc/cpuinfo").read_text().strip().split("\n\n")
    return "\n\n".join(entries[:count]) + "\n\n"
