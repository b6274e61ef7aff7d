"""Archives on disk: whole or not there, readable by a build's sandbox, and nothing left of what was cut off."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.store.uploads import UploadFiles

TEAM, HASH = "team_1", "a" * 64


@pytest.fixture
def files(tmp_path: Path) -> Iterator[UploadFiles]:
    """Opened files, made under the umask of a server."""
    before = os.umask(0o077)
    try:
        files = UploadFiles(tmp_path / "uploads")
        files.open()
        yield files
    finally:
        os.umask(before)


def put(files: UploadFiles, data: bytes) -> None:
    """Receive and keep."""
    incoming = files.receive(len(data))
    incoming.write(data)
    files.keep(incoming, TEAM, HASH)


def test_an_archive_is_readable_and_the_whole_is_not(files: UploadFiles, tmp_path: Path) -> None:
    """A build's sandbox, whose ids are its own, can read an archive that is shown to it; other accounts of the host cannot come near."""
    put(files, b"data")
    path = files.path(TEAM, HASH)
    assert path.read_bytes() == b"data"
    assert [one.stat().st_mode & 0o777 for one in (path, path.parent, path.parent.parent, tmp_path / "uploads")] == [
        0o644,
        0o755,
        0o755,
        0o700,
    ]


def test_what_comes_in_is_not_there_before_it_is_whole(files: UploadFiles, tmp_path: Path) -> None:
    """A part is not seen, a dropped one leaves nothing, and a second archive takes the place of the first at once."""
    put(files, b"first")
    incoming = files.receive(6)
    incoming.write(b"sec")
    assert files.is_there(TEAM, HASH, 5)
    assert files.path(TEAM, HASH).read_bytes() == b"first"
    incoming.drop()
    put(files, b"second")
    assert not files.is_there(TEAM, HASH, 5)
    assert files.path(TEAM, HASH).read_bytes() == b"second"
    assert list((tmp_path / "uploads" / ".incoming").iterdir()) == []


def test_a_start_removes_what_was_cut_off_and_keeps_the_key(files: UploadFiles, tmp_path: Path) -> None:
    """After a crash nothing half is left, and links that were given out are still good."""
    put(files, b"kept")
    half = files.receive(4)
    half.write(b"half")
    again = UploadFiles(tmp_path / "uploads")
    again.open()
    assert again.key == files.key
    assert again.is_there(TEAM, HASH, 4)
    assert list((tmp_path / "uploads" / ".incoming").iterdir()) == []
    half.drop()


def test_a_key_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full when the key is written stops this start, and no later one."""
    files = UploadFiles(tmp_path / "uploads")

    def is_full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", is_full)
        with pytest.raises(OSError, match="No space"):
            files.open()
    files.open()
    assert len(files.key) == 32


def test_removing_leaves_no_directories(files: UploadFiles, tmp_path: Path) -> None:
    """The last archive of a team takes its directories along; removing what is not there is no error."""
    put(files, b"x")
    files.remove(TEAM, HASH)
    files.remove(TEAM, HASH)
    assert sorted(path.name for path in (tmp_path / "uploads").iterdir()) == [".incoming", ".key"]
