"""Paths as steps write them, made absolute; and directories that are made for them. Acts on whatever tree the process sees."""

from __future__ import annotations

import os

from cloister.errors import InvalidRequestError

__all__ = ["Directories", "absolute"]


def absolute(path: str, start: str, home: str) -> str:
    """``path`` from ``start`` on, without ``.`` and ``..`` in it (by the words alone, as Docker does); ``~`` is ``home``."""
    if path == "~" or path.startswith("~/"):
        path = home + path[1:]
    normal = os.path.normpath(os.path.join("/", start, path))
    return "/" + normal.lstrip("/")


class Directories:
    """Makes directories that are missing, each once looked at, and gives them to ``owner`` (user and group)."""

    def __init__(self, owner: tuple[int, int]) -> None:
        self._owner = owner
        self._there: set[str] = set()
        self._made: set[str] = set()

    def ensure(self, path: str, mode: int = 0o755) -> bool:
        """Make ``path`` and what is missing above it; a symlink to a directory is one. Returns whether ``path`` was made, by this call or
        an earlier one.

        Raises: InvalidRequestError: something else has that name.
        """
        if path not in self._there:
            self._make(path, mode)
            self._there.add(path)
        return path in self._made

    def _make(self, path: str, mode: int) -> None:
        if os.path.isdir(path):
            return
        if os.path.islink(path):
            aim = os.path.realpath(path)
            if os.path.lexists(aim):
                raise InvalidRequestError(f"'{path}' is no directory")
            self.ensure(aim, mode)
            return
        if os.path.lexists(path):
            raise InvalidRequestError(f"'{path}' is no directory")
        self.ensure(os.path.dirname(path))
        os.mkdir(path)
        os.chown(path, *self._owner)
        os.chmod(path, mode)
        self._made.add(path)
