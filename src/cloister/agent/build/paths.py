"""Makes paths of steps absolute, and makes directories for them. Acts on the tree that the process sees."""

from __future__ import annotations

import os

from cloister.errors import InvalidRequestError

__all__ = ["Directories", "absolute"]


def absolute(path: str, start: str, home: str) -> str:
    """``path``, relative to ``start``, without ``.`` and ``..`` (resolved in the text, as in Docker); ``~`` is ``home``."""
    if path == "~" or path.startswith("~/"):
        path = home + path[1:]
    normal = os.path.normpath(os.path.join("/", start, path))
    return "/" + normal.lstrip("/")


class Directories:
    """Makes missing directories and gives them to ``owner`` (user and group). Looks at each directory once."""

    def __init__(self, owner: tuple[int, int]) -> None:
        self._owner = owner
        self._there: set[str] = set()
        self._made: set[str] = set()

    def ensure(self, path: str, mode: int = 0o755) -> bool:
        """Make ``path`` and its missing parents; a symlink to a directory counts as one. Whether this or an earlier call made ``path``.

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
