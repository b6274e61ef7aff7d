"""Limits the read and write rates of one loop device, on cgroup v1 and v2.

v2 uses ``io.max`` of the sandbox's own control group, to which the kernel also charges writeback. v1 charges all writeback to the root
group. The limit is therefore set in the root group and in the group of this process, and names the sandbox's own loop device only.
The first limit of a device costs 30 ms, later ones 20 us.
Runs in: supervisor. Needs: root. Source: Documentation/admin-guide/cgroup-v1/blkio-controller.rst, cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Rates", "bound_device_v1", "bound_device_v2", "clear_unused_v1", "lacks_rates"]

_LOOP_MAJOR = 7
_ROOT = Path("/sys/fs/cgroup")
_BLOCK = Path("/sys/block")
_BOUND_FILE = "blkio.throttle.write_bps_device"


@dataclass(frozen=True)
class Rates:
    """Bytes and operations per second, for reads and for writes each; None is no limit."""

    bytes_per_s: int | None
    iops: int | None


def bound_device_v1(number: int, rates: Rates, root: Path = _ROOT) -> None:
    """Limit loop device ``number``; ``Rates(None, None)`` removes the limit. Raises: OSError."""
    for group in _groups(root):
        for way in ("read", "write"):
            for what, most in (("bps", rates.bytes_per_s), ("iops", rates.iops)):
                _write(group / f"blkio.throttle.{way}_{what}_device", f"{_LOOP_MAJOR}:{number} {most or 0}")


def bound_device_v2(number: int, rates: Rates, group: Path) -> None:
    """Limit loop device ``number`` for control group ``group``. Raises: OSError."""
    each, ops = rates.bytes_per_s or "max", rates.iops or "max"
    _write(group / "io.max", f"{_LOOP_MAJOR}:{number} rbps={each} wbps={each} riops={ops} wiops={ops}")


def clear_unused_v1(root: Path = _ROOT, block: Path = _BLOCK) -> None:
    """Remove the limits of unattached loop devices, which a server that died has left. Raises: OSError."""
    for group in _groups(root):
        for path in group.glob("blkio.throttle.*_*ps_device"):
            for number in re.findall(rf"^{_LOOP_MAJOR}:(\d+) ", path.read_text(), re.MULTILINE):
                if not (block / f"loop{number}" / "loop" / "backing_file").exists():
                    _write(path, f"{_LOOP_MAJOR}:{number} 0")


def lacks_rates(version: int, root: Path = _ROOT) -> str:
    """The kernel feature that this host lacks for rate limits; empty if it has all."""
    if version == 1:
        return "" if (root / "blkio" / _BOUND_FILE).exists() else "there is no blkio controller with throttling"
    controllers = root / "cgroup.controllers"
    return "" if controllers.exists() and "io" in controllers.read_text().split() else "there is no io controller"


def _groups(root: Path) -> list[Path]:
    own = ""
    with contextlib.suppress(OSError):
        found = re.search(r"^\d+:blkio:(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
        own = found[1].strip("/") if found else ""
    groups = [root / "blkio", *([root / "blkio" / own] if own else [])]
    return [group for group in groups if (group / _BOUND_FILE).exists()]


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
