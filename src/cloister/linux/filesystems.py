"""Finds the type of file system that a path is on.

Runs in: launcher and ``cloister doctor``. Needs: /proc. Source: proc_pid_mountinfo(5), stat(2).
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["existing_part", "filesystem_name"]

_MOUNTS = Path("/proc/self/mountinfo")


def existing_part(path: Path) -> Path:
    """``path``, or its nearest parent that exists."""
    return next((part for part in (path, *path.parents) if os.path.lexists(part)), Path("/"))


def filesystem_name(path: Path, mounts: Path = _MOUNTS) -> str:
    """The type of the file system of ``path``, such as ``ext4``, without a subtype; empty if it is not in the mount table."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    lines = (line.split() for line in mounts.read_text(errors="replace").splitlines())
    found = [words[words.index("-") + 1] for words in lines if words[2] == wanted]
    return found[-1].partition(".")[0] if found else _of_longest_mount(path, mounts)


def _of_longest_mount(path: Path, mounts: Path) -> str:
    """Search by mount point, for file systems such as btrfs whose files report another device than their mount."""
    best, kind = "", ""
    for line in mounts.read_text(errors="replace").splitlines():
        words = line.split()
        point = words[4].encode().decode("unicode_escape")
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, words[words.index("-") + 1].partition(".")[0]
    return kind
