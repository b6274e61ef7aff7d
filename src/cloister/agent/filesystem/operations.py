"""Operations on entries: stat, list, make, move, remove. Blocking; run them in a thread that acts as the user.

Paths are absolute. The kernel's errors become ours here. The target of a link is never removed or moved.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable

from cloister.agent.filesystem.entries import Describer, list_entries
from cloister.agent.filesystem.faults import faults
from cloister.agent.filesystem.markers import MOVE_PREFIX
from cloister.agent.filesystem.users import acting_uid, root_itself
from cloister.errors import AlreadyExistsError, InvalidRequestError
from cloister.protocol.filesystem import EntryInfo

__all__ = ["list_dir", "make_dir", "make_parents", "move", "remove", "stat_entry"]

_COPY = "copy"


def stat_entry(path: str) -> EntryInfo:
    """The entry at ``path``; a link is not followed."""
    with faults(path):
        return Describer().describe(path)


def list_dir(path: str, depth: int) -> tuple[EntryInfo, ...]:
    """The entries below the directory."""
    with faults(path):
        return tuple(list_entries(path, max(1, depth), Describer().describe))


def make_dir(path: str) -> EntryInfo:
    """Make a directory and its missing parents.

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
    """Make the missing parents of ``path``. Raises: OSError."""
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        try:
            _make_directories(above)
        except FileExistsError as error:
            if not os.path.isdir(above):  # otherwise another process made it meanwhile
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error


def _make_directories(path: str) -> None:
    """As os.makedirs, for any depth. Raises: OSError, FileExistsError if ``path`` exists."""
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
    """Copy beside the destination, rename the copy, then remove the source: the destination is never incomplete.

    The copy is made in a directory that is held by its descriptor and that no other user may enter. So only the copy changes its owner, and
    no link can be put in its way.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(root_itself())
        above = os.open(os.path.dirname(destination), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, above)
        closed = _make_closed_directory(above, stack)
        _copy_all(source, f"/proc/self/fd/{closed}/{_COPY}")
        os.rename(_COPY, os.path.basename(destination), src_dir_fd=closed, dst_dir_fd=above)
    _remove(source)


def _make_closed_directory(above: int, stack: contextlib.ExitStack) -> int:
    """A descriptor of a new directory of the acting user; ``stack`` removes it and its contents. Raises: OSError."""
    name = MOVE_PREFIX + secrets.token_hex(8)
    os.mkdir(name, 0o700, dir_fd=above)
    stack.callback(_ignore_errors, os.rmdir, name, dir_fd=above)
    closed = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    stack.callback(os.close, closed)
    status = os.fstat(closed)
    if status.st_uid != acting_uid() or stat.S_IMODE(status.st_mode) & 0o077 or os.listdir(closed):  # it was replaced
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    stack.callback(_ignore_errors, _remove, f"/proc/self/fd/{closed}/{_COPY}")
    return closed


def _ignore_errors(action: Callable[..., None], *args: object, **kwargs: object) -> None:
    with contextlib.suppress(OSError, RecursionError):
        action(*args, **kwargs)


def _copy_all(source: str, copy: str) -> None:
    try:
        if os.path.isdir(source) and not os.path.islink(source):
            shutil.copytree(source, copy, symlinks=True, copy_function=_copy)
            _take_owner(source, copy)
        else:
            _copy(source, copy)
    except (OSError, shutil.Error, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise InvalidRequestError(f"'{source}' has too many levels of directories to be moved to another file system") from None
        if isinstance(error, shutil.Error):  # a list of (source, copy, text): the first is enough for an error text
            raise OSError(errno.EIO, str(error.args[0][0][2] if error.args[0] else error)) from error
        raise


def _copy(source: str, copy: str) -> None:
    if not stat.S_ISREG(os.lstat(source).st_mode) and not os.path.islink(source):
        raise OSError(errno.EXDEV, f"a special file cannot be moved to another file system: {source}")
    shutil.copy2(source, copy, follow_symlinks=False)
    _take_owner(source, copy)


def _take_owner(source: str, copy: str) -> None:
    status = os.lstat(source)
    with contextlib.suppress(PermissionError):  # only root may change owners
        os.chown(copy, status.st_uid, status.st_gid, follow_symlinks=False)


def remove(path: str) -> None:
    """Remove a file, a link, or a directory with its contents. A missing entry is no error."""
    if path == "/":
        raise InvalidRequestError("the root directory cannot be removed")
    with faults(path), contextlib.suppress(FileNotFoundError):
        _remove(path)


def _remove(path: str) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)
