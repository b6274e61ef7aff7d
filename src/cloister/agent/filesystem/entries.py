"""The description of an entry for clients, from lstat, the user database and extended attributes. Reads only.

A link is described by its target (``type``, ``mode``), with its absolute ``symlink_target``. A broken link is a SYMLINK.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

from cloister.agent.filesystem.markers import is_marker
from cloister.errors import LimitError
from cloister.protocol.filesystem import EntryInfo, FileType

__all__ = ["METADATA_PREFIX", "Describer", "list_entries", "permissions_text", "read_metadata"]

METADATA_PREFIX = "user.e2b."
_MAX_ENTRIES = 200_000
_TYPES = {stat.S_IFREG: FileType.FILE_TYPE_FILE, stat.S_IFDIR: FileType.FILE_TYPE_DIRECTORY}
_LETTERS = (
    (stat.S_ISDIR, "d"),
    (stat.S_ISLNK, "L"),
    (stat.S_ISBLK, "D"),
    (stat.S_ISCHR, "Dc"),
    (stat.S_ISFIFO, "p"),
    (stat.S_ISSOCK, "S"),
)


def permissions_text(mode: int) -> str:
    """The mode in this API's form, which is Go's: ``-rw-r--r--``, ``drwxr-xr-x``, ``Lrwxrwxrwx``, ``dtrwxrwxrwx``."""
    letters = "".join(letter for test, letter in _LETTERS if test(mode))
    for bit, letter in ((stat.S_ISUID, "u"), (stat.S_ISGID, "g"), (stat.S_ISVTX, "t")):
        if mode & bit:
            letters += letter
    return (letters or "-") + "".join(letter if mode & (0o400 >> i) else "-" for i, letter in enumerate("rwxrwxrwx"))


def read_metadata(path: str | int, *, follow: bool) -> dict[str, str]:
    """The metadata of a file, without values that the user may not read."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for name in os.listxattr(path, follow_symlinks=follow):
            if name.startswith(METADATA_PREFIX):
                value = os.getxattr(path, name, follow_symlinks=follow)
                found[name.removeprefix(METADATA_PREFIX)] = value.decode("utf-8", "replace")
    return found


class Describer:
    """Makes entries for one operation; caches the names of users and groups."""

    def __init__(self) -> None:
        self._users = _names("/etc/passwd")
        self._groups = _names("/etc/group")

    def describe(self, path: str, status: os.stat_result | None = None) -> EntryInfo:
        """The entry at ``path``; a link is not followed.

        Raises: OSError.
        """
        status = os.lstat(path) if status is None else status
        target: str | None = None
        type_ = _TYPES.get(stat.S_IFMT(status.st_mode), FileType.FILE_TYPE_UNSPECIFIED)
        mode = status.st_mode
        metadata_of = path
        if stat.S_ISLNK(status.st_mode):
            target, type_, mode = _follow(path)
            metadata_of = target
        return EntryInfo(
            name=os.path.basename(path) or "/",
            type=type_,
            path=path,
            size=status.st_size,
            mode=mode & 0o777,
            permissions=permissions_text(status.st_mode),
            owner=self._users.get(status.st_uid) or str(status.st_uid),
            group=self._groups.get(status.st_gid) or str(status.st_gid),
            modified_time=status.st_mtime_ns,
            symlink_target=target,
            metadata=read_metadata(metadata_of, follow=False) if type_ in (FileType.FILE_TYPE_FILE, FileType.FILE_TYPE_DIRECTORY) else {},
        )


def _names(path: str) -> dict[int, str]:
    """The names by number in a file of colon-separated lines; the first line of a number counts."""
    found: dict[int, str] = {}
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, _, number = line.split(":", 3)[:3] if line.count(":") >= 2 else ("", "", "")
            if number.strip().isdigit():
                found.setdefault(int(number), name)
    return found


def _follow(path: str) -> tuple[str, FileType, int]:
    """The link's target, and its type and mode."""
    try:
        target = os.path.realpath(path, strict=True)
        status = os.stat(target)
    except OSError:
        return os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path))), FileType.FILE_TYPE_SYMLINK, 0o777
    return target, _TYPES.get(stat.S_IFMT(status.st_mode), FileType.FILE_TYPE_UNSPECIFIED), status.st_mode


def list_entries(root: str, depth: int, describe: Callable[[str, os.stat_result], EntryInfo]) -> list[EntryInfo]:
    """The entries below ``root``, ``depth`` levels deep: each directory before its contents, names in order.

    Links are listed, not followed, except for ``root`` itself. Entries that vanish meanwhile or may not be read are omitted.

    Raises: OSError (about ``root``), LimitError.
    """
    found: list[EntryInfo] = []
    pending = [_scan(root)]
    while pending:
        item = next(pending[-1], None)
        if item is None:
            pending.pop()
            continue
        with contextlib.suppress(OSError):
            found.append(describe(item.path, item.stat(follow_symlinks=False)))
            if len(found) > _MAX_ENTRIES:
                raise LimitError(f"there are more than {_MAX_ENTRIES} entries below '{root}': list it with a lower depth")
            if len(pending) < depth and item.is_dir(follow_symlinks=False):
                pending.append(_scan(item.path))
    return found


def _scan(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return iter(sorted((entry for entry in entries if not is_marker(entry.name)), key=lambda entry: entry.name))
