"""Network namespaces that killed test runs left pinned in their temporary directories, which pytest then cannot remove."""

from __future__ import annotations

import re
from pathlib import Path

from cloister.linux.netns import unpin_netns

__all__ = ["unpin_garbage"]

_GARBAGE = re.compile(r"/pytest-of-[^/]+/garbage-[^/]+/")
"""The name that pytest gives a directory that it is about to remove."""


def unpin_garbage() -> None:
    """Unpin them. Raises: IsolationError."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        root, point = line.split()[3:5]
        if root.startswith("net:") and _GARBAGE.search(point):
            unpin_netns(Path(point))
