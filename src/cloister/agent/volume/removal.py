"""Removes a directory of a volume with all below it, however deep that is.

A sandbox may have made a tree that is deeper than the stack of a program and than its open files. So what is below a bounded depth is moved
to the directory that is to be removed, and removed from there. If that breaks off, the next removal of the directory goes on. No link is
followed. All calls block.
"""

from __future__ import annotations

import contextlib
import os
import secrets

__all__ = ["HIDDEN_PREFIX", "remove_tree"]

HIDDEN_PREFIX = ".cloister-"
"""Beginning of the names of files that are not whole yet, or are being removed."""
_MOST_DEPTH = 64
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(directory: int, name: str) -> None:
    """Remove the directory ``name`` of an open directory. Raises: OSError, also when another program adds to it meanwhile."""
    top = os.open(name, _FLAGS, dir_fd=directory)
    try:
        while _empty(top, top, _MOST_DEPTH):
            pass
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=directory)


def _empty(fd: int, top: int, depth: int) -> bool:
    """Remove what is in an open directory, or move it to ``top``. Gives whether it moved something."""
    has_moved = False
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        with contextlib.suppress(FileNotFoundError):  # another program has removed or moved it
            if not is_directory:
                os.unlink(name, dir_fd=fd)
            elif depth:
                below = os.open(name, _FLAGS, dir_fd=fd)
                try:
                    has_moved |= _empty(below, top, depth - 1)
                finally:
                    os.close(below)
                os.rmdir(name, dir_fd=fd)
            else:
                os.rename(name, f"{HIDDEN_PREFIX}{secrets.token_hex(8)}", src_dir_fd=fd, dst_dir_fd=top)
                has_moved = True
    return has_moved
