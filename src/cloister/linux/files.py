"""Directories with exact modes, and atomic writes of files, safe if the process dies at any instant.

Runs in: any process of the server. Needs: write permission on the parent directory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from contextlib import ExitStack, suppress
from pathlib import Path

__all__ = ["copy_sparse", "make_directory", "open_private", "remove_partial", "sync_path", "write_whole"]

_FICLONE = 0x40049409
"""``_IOW(0x94, 9, int)``, linux/fs.h."""
_UNABLE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL)
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\Z")


def make_directory(path: Path, mode: int = 0o700, *, keep: bool = False) -> int | None:
    """Create the directory ``path`` of this process's user with exactly ``mode``, under any umask. Missing parents get 0755.

    Returns the former mode of an existing directory whose mode had to change. ``keep``: an existing directory keeps its mode and owner.
    Raises: NotADirectoryError (also for a symlink), PermissionError if another user owns it.
    """
    if not path.parent.exists():
        make_directory(path.parent, 0o755)
    try:
        path.mkdir(mode=mode)
        was = None
    except FileExistsError:
        was = stat.S_IMODE(path.stat().st_mode)
        if keep and path.is_dir():
            return None
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, f"it belongs to user {found.st_uid}", str(path))
        if stat.S_IMODE(found.st_mode) != mode:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
    return None if was == mode else was


def open_private(path: Path, *, empty: bool = False) -> int:
    """A descriptor to write to ``path``, which is created with mode 0600 if it does not exist; ``empty`` truncates it."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if empty else 0), 0o600)


def write_whole(path: Path, text: str, *, is_durable: bool = False) -> None:
    """Replace the content of ``path`` atomically; the file gets mode 0600. Concurrent writers are safe.

    Every process sees the new content at once. A power failure may bring the old content back, unless ``is_durable``. The temporary file
    is ``.<name>.<hex digits>``; a crash may leave it (:func:`remove_partial`). Raises: OSError, with nothing changed.
    """
    temporary = f"{path.parent}/.{path.name}.{secrets.token_hex(4)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            content = memoryview(text.encode())
            while content:
                content = content[os.write(descriptor, content) :]
            if is_durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)  # noqa: PTH104 - pathlib takes longer than the call, and each sandbox writes eight files
        if is_durable:
            sync_path(path.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108 - as above
        raise


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file with its holes to a new file of mode 0600; where the file system can, the two share their blocks. Raises: OSError."""
    with ExitStack() as stack:
        reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, reader)
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, writer)
        try:
            fcntl.ioctl(writer, _FICLONE, reader)
        except OSError as error:
            if error.errno not in _UNABLE:
                raise
            _copy_data(reader, writer)


def _copy_data(reader: int, writer: int) -> None:
    size = os.fstat(reader).st_size
    os.ftruncate(writer, size)
    end = 0
    while end < size:
        try:
            at = os.lseek(reader, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # the rest is a hole
                return
            raise
        end = os.lseek(reader, at, os.SEEK_HOLE)
        while at < end:
            copied = os.copy_file_range(reader, writer, end - at, at, at)
            if not copied:
                raise OSError(errno.EIO, "the file became shorter while it was copied")
            at += copied


def sync_path(path: Path) -> None:
    """Write a file's content, or a directory's entries, through to the disk. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(directory: Path) -> None:
    """Remove temporary files of :func:`write_whole` that a crash left. No other process may write to ``directory`` meanwhile."""
    if directory.is_dir():
        for path in directory.iterdir():
            if _PARTIAL.match(path.name):
                path.unlink(missing_ok=True)
