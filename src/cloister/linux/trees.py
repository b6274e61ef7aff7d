"""Removes and measures directory trees that untrusted code wrote: any depth, no symlink followed, no other file system entered.

Runs in: supervisor. Needs: root, because the files belong to other users. Source: rm(1), du(1).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["remove_tree", "tree_size"]


def remove_tree(root: Path) -> None:
    """Remove ``root`` and everything below it. Does nothing if it does not exist; files that cannot be removed stay.

    Uses rm(1), because Python's removal is recursive and a tree may be deeper than Python can recurse.
    """
    subprocess.run(["rm", "-rf", "--one-file-system", "--", root], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def tree_size(root: Path) -> int:
    """Disk space of ``root`` and everything below it, by du(1) for the same reason. Raises: OSError, subprocess.CalledProcessError."""
    done = subprocess.run(["du", "-sxk", root], capture_output=True, check=True, text=True)
    return int(done.stdout.split()[0]) * 1024
