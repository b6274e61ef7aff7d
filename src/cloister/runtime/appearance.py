"""Facts that every sandbox is told of itself, whatever its runtime: its own files in /etc, and its processors (I3).

Draws a new machine id at each call. Runs in: supervisor and builds. Needs: nothing.
"""

from __future__ import annotations

import math
import os
import uuid

from cloister.model.resources import Limits

__all__ = ["own_files", "processors"]


def processors(limits: Limits, index: int) -> list[int]:
    """The host processors that the sandbox in slot ``index`` may run on. Neighbouring slots begin at different ones."""
    available = sorted(os.sched_getaffinity(0))
    count = min(len(available), max(1, math.ceil(limits.cpu_count)))
    return sorted(available[(index + offset) % len(available)] for offset in range(count))


def own_files(hostname: str) -> dict[str, str]:
    """Content of the files that name a sandbox, by path, in place of its template's. ``hostname`` resolves to the sandbox itself."""
    return {
        "/etc/hostname": f"{hostname}\n",
        "/etc/hosts": f"127.0.0.1 localhost\n127.0.0.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\n",
        "/etc/machine-id": f"{uuid.uuid4().hex}\n",
    }
