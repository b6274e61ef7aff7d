"""Directories that must not be removed while they are in use: shared locks on them, which end with the process that holds them.

A user holds a directory by :class:`Holds`; a remover must have :func:`try_claim`-ed it before it takes the name away, and asks whether
anybody may use it whose process is gone (a sandbox outlives its supervisor). Source: flock(2), which takes a descriptor of a directory too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import weakref
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Holds", "try_claim"]


def try_claim(directory: Path) -> int | None:
    """An exclusive lock on ``directory``, which the caller closes; None when somebody holds it. Raises: OSError, when it is not there."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    return fd


def _share(directory: Path) -> int:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)  # a remover has its own for a moment only
        if not _is_at(fd, directory):
            raise FileNotFoundError(errno.ENOENT, "it has just been removed", str(directory))
    except OSError:
        os.close(fd)
        raise
    return fd


def _is_at(fd: int, directory: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), directory.stat())
    except FileNotFoundError:
        return False


def _close_all(fds: dict[Path, int]) -> None:
    for fd in fds.values():
        os.close(fd)


class Holds:
    """What this object holds, each directory once, however many use it; nothing once it is gone. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fds: dict[Path, int] = {}
        self._users = Counter[Path]()
        weakref.finalize(self, _close_all, self._fds)

    def take(self, directories: Iterable[Path]) -> None:
        """Hold each of ``directories``, in whole or not at all; :meth:`give` is to follow.

        Raises: OSError: one is not there.
        """
        taken: list[Path] = []
        try:
            for directory in directories:
                self._take_one(directory)
                taken.append(directory)
        except OSError:
            self.give(taken)
            raise

    def give(self, directories: Iterable[Path]) -> None:
        """Let go of what :meth:`take` took."""
        with self._lock:
            for directory in directories:
                self._users[directory] -= 1
                if not self._users[directory]:
                    del self._users[directory]
                    os.close(self._fds.pop(directory))

    def _take_one(self, directory: Path) -> None:
        with self._lock:
            if directory not in self._fds:
                self._fds[directory] = _share(directory)
            self._users[directory] += 1
