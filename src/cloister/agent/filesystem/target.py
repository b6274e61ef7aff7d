"""The target of a write: the directory and name of a path, with links followed by hand, and the file that is there now.

Everything is held by descriptors from the first look-up on, so a link that is swapped meanwhile has no effect. All look-ups use the rights
of the thread's user. ``staging.py`` writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass

from cloister.agent.filesystem.operations import make_parents

__all__ = ["Target", "open_target"]

_MAX_LINKS = 40


@dataclass(frozen=True)
class Target:
    """A name in a directory, and the regular file that has it now, if any. Owns its descriptors (both O_PATH)."""

    directory: int
    name: str
    existing: int | None
    status: os.stat_result | None

    def existing_path(self) -> str:
        """A path to exactly the file that was found, whatever its name is now."""
        return f"/proc/self/fd/{self.existing}"

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self.directory)
        if self.existing is not None:
            os.close(self.existing)


def open_target(path: str) -> Target:
    """The target of ``path``; missing parent directories are made.

    Raises: OSError: also if the target is no regular file, or may not be written.
    """
    make_parents(path)
    directory, name = _open_directory(os.path.dirname(path), None), os.path.basename(path)
    try:
        for _ in range(_MAX_LINKS):
            if name in ("", ".", ".."):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            try:
                existing = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            except FileNotFoundError:
                return Target(directory, name, None, None)
            with contextlib.ExitStack() as stack:
                stack.callback(os.close, existing)
                status = os.fstat(existing)
                if not stat.S_ISLNK(status.st_mode):
                    _check(existing, status)
                    stack.pop_all()
                    return Target(directory, name, existing, status)
                link = os.readlink("", dir_fd=existing)
            above, name = os.path.split(link)
            entered = _open_directory(above or ".", directory)
            os.close(directory)
            directory = entered
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    except BaseException:
        os.close(directory)
        raise


def _open_directory(path: str, directory: int | None) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)


def _check(existing: int, status: os.stat_result) -> None:
    """Refuse files that an upload cannot replace. Files of the kernel are refused: a write to one is an action."""
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if status.st_dev == os.stat("/proc").st_dev or not os.access(f"/proc/self/fd/{existing}", os.W_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
