"""Files that are written whole or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cloister.linux.files import write_whole


def test_replaces_what_was_there(tmp_path: Path) -> None:
    """The new content is there, for the owner only, and nothing beside it."""
    path = tmp_path / "record.json"
    path.write_text("old")
    write_whole(path, "new", is_durable=True)
    assert path.read_text() == "new"
    write_whole(path, "new ü")
    assert path.read_text(encoding="utf-8") == "new ü"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old(tmp_path: Path) -> None:
    """A failed write changes no file and leaves none."""
    path = tmp_path / "record.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """A symlink of that name is no way to another file."""
    other, path = tmp_path / "other", tmp_path / "record.json"
    other.write_text("kept")
    path.symlink_to(other)
    write_whole(path, "new")
    assert (other.read_text(), path.read_text(), path.is_symlink()) == ("kept", "new", False)
