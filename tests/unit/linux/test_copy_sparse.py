"""Copies of files with holes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cloister.linux.files import copy_sparse

MIB = 1 << 20


@pytest.mark.parametrize("pieces", [(), (0,), (3,), (0, 3), (1, 2, 7)])
def test_content_and_holes_are_the_same(tmp_path: Path, pieces: tuple[int, ...]) -> None:
    """Wherever the data is; the copy takes no more room than the original, and is private."""
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(8 * MIB)
        for piece in pieces:
            file.seek(piece * MIB)
            file.write(os.urandom(MIB))
    copy_sparse(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks + 64
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_nothing_is_overwritten_or_followed(tmp_path: Path) -> None:
    """Neither a file that is there nor what a link names."""
    (tmp_path / "source").write_text("new")
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "source")
    with pytest.raises(FileExistsError):
        copy_sparse(tmp_path / "source", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "old"
    with pytest.raises(OSError, match="symbolic link"):
        copy_sparse(tmp_path / "link", tmp_path / "target")
