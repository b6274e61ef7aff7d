"""A killed test run does not make the next one fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.linux.netns import is_netns_pinned, pin_new_netns, unpin_netns
from framework.garbage import unpin_garbage

pytestmark = pytest.mark.root


def test_pinned_networks_in_garbage_are_unpinned(tmp_path: Path) -> None:
    """Only those in a directory that pytest is about to remove: others are of a run that lives."""
    used, left = tmp_path / "pytest-1" / "netns", tmp_path / "pytest-of-someone" / "garbage-1" / "far" / "netns"
    for path in (used, left):
        pin_new_netns(path)
    try:
        unpin_garbage()
        assert (is_netns_pinned(used), is_netns_pinned(left), left.exists()) == (True, False, False)
    finally:
        unpin_netns(used)
        unpin_netns(left)
