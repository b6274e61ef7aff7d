"""The files that tell programs the ids of their sandbox and template."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cloister.agent.told import tell_ids
from cloister.protocol.init_document import InitDocument

NAMES = (".E2B_SANDBOX_ID", ".E2B_TEMPLATE_ID")


def told(directory: Path) -> list[str]:
    """Their content."""
    return [(directory / name).read_text() for name in NAMES]


def test_ids_are_told_and_renewed(tmp_path: Path) -> None:
    """Without a line end, readable by all users; another sandbox's are replaced, and right ones are left as they are."""
    directory = tmp_path / "e2b"
    tell_ids(InitDocument(sandbox_id="one", template_id="t"), directory)
    assert told(directory) == ["one", "t"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o644}
    os.utime(directory / NAMES[1], (1, 1))
    tell_ids(InitDocument(sandbox_id="two", template_id="t"), directory)
    assert told(directory) == ["two", "t"]
    assert (directory / NAMES[1]).stat().st_mtime == 1


@pytest.mark.parametrize("kind", ["link", "pipe", "dangling", "leftover"])
def test_files_of_a_template_at_that_place(tmp_path: Path, kind: str) -> None:
    """They are replaced: the agent writes through no link, and waits for no reader of a pipe."""
    other, at = tmp_path / "other", tmp_path / NAMES[0]
    other.write_text("one")
    if kind == "pipe":
        os.mkfifo(at)
    elif kind == "leftover":
        at.with_name(f"{at.name}.new").symlink_to(other)
    else:
        at.symlink_to(other if kind == "link" else tmp_path / "nothing")
    tell_ids(InitDocument(sandbox_id="one", template_id="t"), tmp_path)
    assert (told(tmp_path), at.is_symlink(), other.read_text()) == (["one", "t"], False, "one")


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """The caller decides what that means."""
    with pytest.raises(OSError, match="e2b"):
        tell_ids(InitDocument(sandbox_id="one"), tmp_path / "gone" / "e2b")
