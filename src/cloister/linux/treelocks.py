"""Locks on directories that must not be removed while in use. The locks end with the process that has them.

A user takes a shared lock by :class:`TreeLocks`. A remover takes the exclusive lock by :func:`try_lock` before it removes the tree. The
locks do not cover sandboxes that outlive their supervisor, so a remover must also ask for those.
Runs in: supervisor and ``cloister template gc``. Needs: read permission on the directory. Source: flock(2), which accepts directories.
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

__all__ = ["TreeLocks", "try_lock"]


def try_lock(directory: Path) -> int | None:
    """An exclusive lock on ``directory``, which the caller closes; None while another has one. Raises: OSError if it does not exist."""
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
        fcntl.flock(fd, fcntl.LOCK_SH)  # a remover has its exclusive lock for a moment only
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


class TreeLocks:
    """Shared locks, one for each directory and counted by user. They end with this object. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._fds: dict[Path, int] = {}
        self._users = Counter[Path]()
        weakref.finalize(self, _close_all, self._fds)

    def lock(self, directories: Iterable[Path]) -> None:
        """Lock all of ``directories`` or none; the caller unlocks them by :meth:`unlock`.

        Raises: OSError if one does not exist.
        """
        locked: list[Path] = []
        try:
            for directory in directories:
                self._lock_one(directory)
                locked.append(directory)
        except OSError:
            self.unlock(locked)
            raise

    def unlock(self, directories: Iterable[Path]) -> None:
        """Unlock directories that :meth:`lock` locked."""
        with self._mutex:
            for directory in directories:
                self._users[directory] -= 1
                if not self._users[directory]:
                    del self._users[directory]
                    os.close(self._fds.pop(directory))

    def _lock_one(self, directory: Path) -> None:
        with self._mutex:
            if directory not in self._fds:
                self._fds[directory] = _share(directory)
            self._users[directory] += 1
