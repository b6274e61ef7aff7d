"""The api process's directory belongs to it, whichever uid it has this time."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.processes.launcher import give_directory

pytestmark = pytest.mark.root


def test_everything_below_is_given(tmp_path: Path) -> None:
    """An archive deep inside too, and a link by itself, not what it names."""
    api, other = tmp_path / "api", tmp_path / "other"
    deep = api / "uploads" / "team" / "hash" / "archive"
    deep.parent.mkdir(parents=True)
    deep.write_bytes(b"x")
    other.write_bytes(b"host's")
    (api / "uploads" / "link").symlink_to(other)
    give_directory(api, 70_001)
    owners = {path.relative_to(api): path.lstat().st_uid for path in (api, *api.rglob("*"))}
    assert set(owners.values()) == {70_001}, owners
    assert other.stat().st_uid == 0


def test_directory_is_given_last(tmp_path: Path) -> None:
    """One that belongs to the process already is not walked again, and one that is not there is made."""
    api = tmp_path / "api"
    give_directory(api, 70_001)
    (api / "late").write_bytes(b"x")
    give_directory(api, 70_001)
    assert (api / "late").stat().st_uid == 0
    give_directory(api, 70_002)
    assert (api / "late").stat().st_uid == 70_002
