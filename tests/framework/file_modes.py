"""Compares what lies below a server's directories with the one table of modes and owners (``cloister.node.layout``)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from cloister.node.layout import LAYOUT, LayoutEntry

__all__ = ["open_to", "wrong_modes"]

_OTHER = 65534


def wrong_modes(directory: str, root: Path, api_uid: int) -> list[str]:
    """Every path below ``root`` that the table does not have, or has with another mode or owner. ``directory``: data, store or run."""
    wrong = []
    for path, found in _walk(root):
        place = _place_of(directory, path.relative_to(root).parts)
        mode, owner = stat.S_IMODE(found.st_mode), {"root": 0, "api": api_uid, "egress": api_uid + 1}
        if place is None:
            wrong.append(f"{path} is not in the table")
        elif not place.pattern.endswith("**") and (mode, found.st_uid) != (place.mode, owner[place.owner]):
            wrong.append(f"{path} has mode {mode:04o} and owner {found.st_uid}, the table says {place.mode:04o} {place.owner}")
    return wrong


def open_to(user: int, *roots: Path) -> set[Path]:
    """Every path below ``roots`` that a process of that user can list or read. Needs root; forks."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        for path, found in (item for root in roots for item in _walk(root)):
            if not stat.S_ISLNK(found.st_mode) and os.access(path, os.R_OK):
                os.write(writer, os.fsencode(path) + b"\0")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read()
    os.waitpid(pid, 0)
    return {Path(os.fsdecode(name)) for name in said.split(b"\0") if name}


def _walk(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for top, names, files in os.walk(root):
        for path in (Path(top, name) for name in (*names, *files)):
            try:
                yield path, path.lstat()
            except (FileNotFoundError, PermissionError):
                continue  # it ended meanwhile, or its directory may be listed and not entered


def _place_of(directory: str, parts: tuple[str, ...]) -> LayoutEntry | None:
    return next((place for place in LAYOUT if place.directory == directory and _matches(tuple(place.pattern.split("/")), parts)), None)


def _matches(pattern: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    if pattern[-1] == "**":
        return len(parts) >= len(pattern) and _matches(pattern[:-1], parts[: len(pattern) - 1])
    return len(pattern) == len(parts) and all(fnmatchcase(part, one) for one, part in zip(pattern, parts, strict=True))
