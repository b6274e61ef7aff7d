"""Removal and size of trees that foreign code has written: of any depth, no link followed, no other file system entered."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["remove_tree", "tree_size"]


def remove_tree(root: Path) -> None:
    """Remove ``root`` and all below it; nothing happens when it is not there, and what cannot be removed is left.

    By rm(1): Python's own removal calls itself for each level, and a tree may have more levels than it can.
    """
    subprocess.run(["rm", "-rf", "--one-file-system", "--", root], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def tree_size(root: Path) -> int:
    """Bytes that ``root`` and all below it take on disk; by du(1), for the same reason. Raises: OSError, subprocess.CalledProcessError."""
    done = subprocess.run(["du", "-sxk", root], capture_output=True, check=True, text=True)
    return int(done.stdout.split()[0]) * 1024
