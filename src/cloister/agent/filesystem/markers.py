"""Names of files that exist for a moment while the agent writes: whoever lists or watches for clients leaves them out."""

from __future__ import annotations

import re

__all__ = ["MOVE_PREFIX", "NEW_PREFIX", "SWAP_PREFIX", "is_marker", "is_unnamed"]

NEW_PREFIX = ".cloister-new-"
"""An upload to a new file, on file systems without unnamed files."""
SWAP_PREFIX = ".cloister-swap-"
"""The new contents of an existing file, the moment before they take its place."""
MOVE_PREFIX = ".cloister-move-"
"""The copy that becomes the destination of a move between file systems."""
_UNNAMED = re.compile(r"#\d+\Z")


def is_marker(name: str) -> bool:
    """Whether a name is one of ours."""
    return name.startswith((NEW_PREFIX, SWAP_PREFIX, MOVE_PREFIX))


def is_unnamed(name: str) -> bool:
    """Whether a name looks like the kernel's for a file without one (O_TMPFILE)."""
    return _UNNAMED.match(name) is not None
