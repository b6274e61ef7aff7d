"""Paths of clients, made absolute. Pure.

Absolute paths stay as they are, ``~`` is the user's home, an empty path is the sandbox's work directory, and other paths are relative to
the user's home. ``..`` is resolved in the text, as in other implementations of this API.
"""

from __future__ import annotations

import os.path

from cloister.errors import InvalidRequestError

__all__ = ["resolve_path"]


def resolve_path(path: str, home: str, workdir: str) -> str:
    """An absolute, normal path.

    Raises: InvalidRequestError.
    """
    if "\0" in path:
        raise InvalidRequestError("the path contains a NUL character")
    if not path:
        path = workdir
    if path == "~" or path.startswith("~/"):
        path = home + path[1:]
    elif path.startswith("~"):
        raise InvalidRequestError("cannot expand user-specific home dir")
    return "/" + os.path.normpath(os.path.join("/", home, path)).lstrip("/")
