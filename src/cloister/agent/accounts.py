"""The sandbox's users, read from its ``/etc/passwd`` and ``/etc/group``.

The agent parses these files itself. Its own C library would load the image's name service modules, which an image may lack. Files are
read at each call: a user may have been added a moment ago.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cloister.errors import AuthenticationError

__all__ = ["Account", "are_ids", "expand_path", "find_account", "list_lines"]

_ETC = Path("/etc")


@dataclass(frozen=True)
class Account:
    """A user: ids, all groups (``gid`` included), home directory and login shell."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


def find_account(name: str, etc: Path = _ETC) -> Account:
    """The user of that name. ``root`` exists even in an image without a list of users.

    Raises: AuthenticationError: there is no such user.
    """
    for fields in list_lines(etc / "passwd", 7):
        if fields[0] == name and are_ids(fields[2], fields[3]):
            gid = int(fields[3])
            return Account(name, int(fields[2]), gid, _groups(name, gid, etc), fields[5] or "/", fields[6] or "/bin/sh")
    if name == "root":
        return Account("root", 0, 0, (0,), "/root", "/bin/sh")
    raise AuthenticationError(f"invalid username: '{name}'")


def expand_path(path: str, account: Account, default: str) -> str:
    """``path`` made absolute: ``~`` is the user's home, a relative path starts at ``default``, an empty path means ``default``."""
    if path == "~" or path.startswith("~/"):
        path = account.home + path[1:]
    return os.path.normpath(os.path.join(default, path)) if path else default  # noqa: PTH118 - text, and it must not be resolved


def are_ids(*words: str) -> bool:
    """Whether each text is a number that can be the id of a user or group."""
    return all(word.isascii() and word.isdigit() and len(word) < 10 for word in words)


def list_lines(path: Path, count: int) -> list[list[str]]:
    """The fields of each line that has ``count`` of them. Other lines are skipped; a missing file has no lines."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [fields for line in text.split("\n") if len(fields := line.split(":")) == count]


def _groups(name: str, gid: int, etc: Path) -> tuple[int, ...]:
    found = {gid}
    found.update(int(fields[2]) for fields in list_lines(etc / "group", 4) if are_ids(fields[2]) and name in fields[3].split(","))
    return tuple(sorted(found))
