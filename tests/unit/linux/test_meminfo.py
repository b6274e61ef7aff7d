"""Sizes of the host's memory, from the kernel's text."""

from __future__ import annotations

from pathlib import Path

from cloister.linux.meminfo import HostMemory, host_memory, memory_mib

TEXT = """\
MemTotal:       24684084 kB
MemFree:        14646680 kB
MemAvailable:   20466520 kB
SwapTotal:       1000000 kB
SwapFree:         999000 kB
HugePages_Total:       0
"""


def test_fields_are_bytes(tmp_path: Path) -> None:
    """The kernel's kB are KiB."""
    path = tmp_path / "meminfo"
    path.write_text(TEXT)
    kib = 1024
    assert host_memory(path) == HostMemory(
        total=24_684_084 * kib, available=20_466_520 * kib, swap_total=1_000_000 * kib, swap_free=999_000 * kib
    )


def test_this_host_has_memory() -> None:
    """Both readers agree."""
    assert host_memory().total >> 20 == memory_mib("MemTotal") > 0
