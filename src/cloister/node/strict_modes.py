"""Finds files and directories of root's code that another user can change. The name is that of sshd's option for the same check.

A path is safe when only root, and the user who called sudo, can replace it. Each part of it must be owned by one of the two. It must be
writable by its owner only, or by a group whose only member is the owner. A directory with the sticky bit, such as /tmp, is safe on the
way to a file, because only an entry's owner can remove it there. Reads only. Source: sshd_config(5) StrictModes, inode(7).
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cloister.linux.filesystems import existing_part

__all__ = ["WeakPath", "code_paths", "find_weak_paths", "sudo_user"]

_MAPS = Path("/proc/self/maps")
_MAPPED = re.compile(r"^\S+ ..x. \S+ \S+ \S+ +(/.*)$", re.MULTILINE)
_DELETED = " (deleted)"
_ACCESS_LIST = "system.posix_acl_access"


@dataclass(frozen=True)
class WeakPath:
    """A file or directory that another user can change or replace."""

    path: Path
    cause: str
    remedy: str


def sudo_user(environ: Mapping[str, str]) -> int | None:
    """The user who became root by sudo. They can do so again, so their files give no user more power."""
    text = environ.get("SUDO_UID", "")
    return int(text) if text.isdigit() and text != "0" else None


def code_paths() -> set[Path]:
    """The whole package, all other files that this process has loaded, and the search paths of modules and programs."""
    paths = {Path(sys.executable), *Path(__file__).parents[1].rglob("*")}
    paths.update(Path(entry or ".") for entry in sys.path)
    paths.update(Path(entry or ".") for entry in os.environ.get("PATH", os.defpath).split(":"))
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    paths.update(Path(file) for file in files if file)
    paths.update(Path(name) for name in _MAPPED.findall(_MAPS.read_text()) if not name.endswith(_DELETED))
    return {existing_part(path.absolute()) for path in paths}  # a user who can create a missing file decides its content


def _is_private(path: Path, group: int, owner: int) -> bool:
    """Whether the owner is the only member of the group. Debian and Ubuntu give each user such a group, and a umask that lets it write.

    With an access control list, the bits of the group are an upper bound for all users in the list. Source: acl(5).
    """
    try:
        entry, user = grp.getgrgid(group), pwd.getpwuid(owner)
    except KeyError:
        return False
    members = {other.pw_name for other in pwd.getpwall() if other.pw_gid == group} | set(entry.gr_mem)
    return entry.gr_name == user.pw_name and members <= {user.pw_name} and _ACCESS_LIST not in os.listxattr(path, follow_symlinks=False)


def find_weak_paths(paths: Iterable[Path], also_trusted: int | None = None) -> list[WeakPath]:
    """Parts of ``paths`` that a user other than root and ``also_trusted`` can change, each once. Missing parts are skipped."""
    found: dict[Path, WeakPath] = {}
    looked_at: set[Path] = set()
    waiting = [path.absolute() for path in paths]
    while waiting:
        path = waiting.pop()
        for part in (path, *path.parents):
            if part in looked_at and part != path:
                break  # its parents were checked too; the last part of a path may not be sticky
            looked_at.add(part)
            if part.is_symlink():
                waiting.append(part.resolve())
            weak = _look(part, also_trusted, may_be_sticky=part != path)
            if weak is not None:
                found[part] = weak
    return sorted(found.values(), key=lambda weak: weak.path)


def _look(path: Path, also_trusted: int | None, *, may_be_sticky: bool) -> WeakPath | None:
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if found.st_uid not in (0, also_trusted):
        remedy = "use a place that belongs to root, or start the server by sudo as that user"
        return WeakPath(path, f"{path} is owned by user {found.st_uid}", remedy)
    if stat.S_ISLNK(found.st_mode) or not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return None
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX and may_be_sticky:
        return None
    if stat.S_ISCHR(found.st_mode) or (not found.st_mode & stat.S_IWOTH and _is_private(path, found.st_gid, found.st_uid)):
        return None
    whose = "every user" if found.st_mode & stat.S_IWOTH else f"group {found.st_gid}"
    return WeakPath(path, f"{path} has mode {stat.S_IMODE(found.st_mode):04o}: {whose} can change it", f"chmod go-w {path}")
