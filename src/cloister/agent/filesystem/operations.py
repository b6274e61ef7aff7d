"""Operations on entries: stat, list, make, move, remove. Blocking; to be run in a thread that acts as the user.

Paths are absolute. Errors of the kernel become ours here. Nothing that a link leads to is removed or moved.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat

from cloister.agent.filesystem.entries import Describer, list_entries
from cloister.agent.filesystem.faults import faults
from cloister.agent.filesystem.markers import MOVE_PREFIX
from cloister.errors import AlreadyExistsError, InvalidRequestError
from cloister.protocol.filesystem import EntryInfo

__all__ = ["list_dir", "make_dir", "make_parents", "move", "remove", "stat_entry"]


def stat_entry(path: str) -> EntryInfo:
    """The entry at ``path``; a link is not followed."""
    with faults(path):
        return Describer().describe(path)


def list_dir(path: str, depth: int) -> tuple[EntryInfo, ...]:
    """What is below the directory."""
    with faults(path):
        return tuple(list_entries(path, max(1, depth), Describer().describe))


def make_dir(path: str) -> EntryInfo:
    """Make a directory and those above it.

    Raises: AlreadyExistsError (a directory), InvalidRequestError (a file).
    """
    with faults(path):
        try:
            _make_directories(path)
        except FileExistsError:
            if os.path.isdir(path):
                raise AlreadyExistsError(f"directory already exists: '{path}'") from None
            raise InvalidRequestError(f"path already exists but it is not a directory: '{path}'") from None
        return Describer().describe(path)


def make_parents(path: str) -> None:
    """Make the directories above ``path``. Raises: OSError."""
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        try:
            _make_directories(above)
        except FileExistsError as error:
            if not os.path.isdir(above):  # else somebody made it meanwhile
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error


def _make_directories(path: str) -> None:
    """As os.makedirs, for any depth. Raises: OSError, FileExistsError when there is something at ``path``."""
    missing: list[str] = []
    while True:
        try:
            os.mkdir(path)
            break
        except FileNotFoundError:
            missing.append(path)
            path = os.path.dirname(path)
        except FileExistsError:
            if not missing:
                raise
            break
    for one in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(one)


def move(source: str, destination: str) -> EntryInfo:
    """Rename, or copy and remove where the kernel cannot rename (another mount, or a directory of a template's layer)."""
    with faults(source):
        os.lstat(source)
    with faults(destination):
        make_parents(destination)
        try:
            os.rename(source, destination)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _move_by_copy(source, destination)
        return Describer().describe(destination)


def _move_by_copy(source: str, destination: str) -> None:
    """Copy beside the destination, put the copy there, then remove the source: the destination is never half there."""
    copy = os.path.join(os.path.dirname(destination), MOVE_PREFIX + secrets.token_hex(8))
    try:
        if os.path.isdir(source) and not os.path.islink(source):
            shutil.copytree(source, copy, symlinks=True, copy_function=_copy)
            _take_owner(source, copy)
        else:
            _copy(source, copy)
        os.rename(copy, destination)
    except (OSError, shutil.Error, RecursionError) as error:
        with contextlib.suppress(OSError):
            _remove(copy)
        if isinstance(error, RecursionError):
            raise InvalidRequestError(f"'{source}' has too many levels of directories to be moved to another file system") from None
        if isinstance(error, shutil.Error):  # a list of (source, copy, text): the first says enough
            raise OSError(errno.EIO, str(error.args[0][0][2] if error.args[0] else error)) from error
        raise
    _remove(source)


def _copy(source: str, copy: str) -> None:
    if not stat.S_ISREG(os.lstat(source).st_mode) and not os.path.islink(source):
        raise OSError(errno.EXDEV, f"a special file cannot be moved to another file system: {source}")
    shutil.copy2(source, copy, follow_symlinks=False)
    _take_owner(source, copy)


def _take_owner(source: str, copy: str) -> None:
    status = os.lstat(source)
    with contextlib.suppress(PermissionError):  # only root may give files away
        os.chown(copy, status.st_uid, status.st_gid, follow_symlinks=False)


def remove(path: str) -> None:
    """Remove a file, a link, or a directory with all that is in it. What is not there is removed already."""
    if path == "/":
        raise InvalidRequestError("the root directory cannot be removed")
    with faults(path), contextlib.suppress(FileNotFoundError):
        _remove(path)


def _remove(path: str) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)
