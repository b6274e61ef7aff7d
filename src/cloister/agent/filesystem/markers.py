"""Names of temporary files of the agent's writes; listings and watches for clients omit them."""

from __future__ import annotations

import re

__all__ = ["MOVE_PREFIX", "NEW_PREFIX", "SWAP_PREFIX", "is_marker", "is_unnamed"]

NEW_PREFIX = ".cloister-new-"
"""A new file of an upload, on file systems without unnamed files."""
SWAP_PREFIX = ".cloister-swap-"
"""The new content of an existing file, just before it replaces that file."""
MOVE_PREFIX = ".cloister-move-"
"""The copy that becomes the destination of a move between file systems."""
_UNNAMED = re.compile(r"#\d+\Z")


def is_marker(name: str) -> bool:
    """Whether a name is one of ours."""
    return name.startswith((NEW_PREFIX, SWAP_PREFIX, MOVE_PREFIX))


def is_unnamed(name: str) -> bool:
    """Whether a name looks like the kernel's name for an unnamed file (O_TMPFILE)."""
    return _UNNAMED.match(name) is not None
