"""Disks that are written from a kept image are sound file systems, each with an identity of its own."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from cloister.errors import IsolationError
from cloister.linux.ext4 import EmptyImage, empty_image, is_clean


@pytest.fixture
def image() -> EmptyImage:
    """One of 300 MiB, which has several block groups."""
    return empty_image(300, 5000)


def header(path: Path) -> dict[str, str]:
    """What ``dumpe2fs -h`` says."""
    text = subprocess.run(["dumpe2fs", "-h", str(path)], capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"^([\w ]+):\s+(.*)$", text, re.MULTILINE))


def test_a_written_image_is_a_sound_file_system_of_the_size_that_was_asked_for(image: EmptyImage, tmp_path: Path) -> None:
    """The file system checker, which verifies every checksum, finds nothing to say."""
    path = tmp_path / "disk.img"
    for _ in range(5):
        image.write(path)
        checked = subprocess.run(["e2fsck", "-f", "-n", str(path)], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
    assert path.stat().st_size == 300 << 20
    assert int(header(path)["Inode count"]) >= 4800  # mkfs rounds to whole block groups


def test_a_written_image_is_sparse_and_private(image: EmptyImage, tmp_path: Path) -> None:
    """It takes little more space than its data, and only its owner can read it."""
    path = tmp_path / "disk.img"
    image.write(path)
    assert path.stat().st_blocks * 512 < 1 << 20
    assert path.stat().st_mode & 0o777 == 0o600


def test_every_image_has_an_identity_of_its_own(image: EmptyImage, tmp_path: Path) -> None:
    """UUID and hash seed differ from one to the next."""
    found = []
    for name in ("a", "b"):
        image.write(tmp_path / name)
        fields = header(tmp_path / name)
        found.append((fields["Filesystem UUID"], fields["Directory Hash Seed"]))
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]


def test_a_rewritten_file_keeps_nothing_of_what_it_held(image: EmptyImage, tmp_path: Path) -> None:
    """The file is emptied first."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"x" * (1 << 20))
    image.write(path)
    assert b"xxxx" not in path.read_bytes()[: 1 << 20]


def test_an_impossible_size_is_refused_with_the_programs_own_words() -> None:
    """One MiB has no room for a million inodes."""
    with pytest.raises(IsolationError, match="cannot make a disk"):
        empty_image(1, 1_000_000)


def test_a_disk_that_was_not_unmounted_is_known(image: EmptyImage, tmp_path: Path) -> None:
    """By the state in its superblock, which also tells of errors; what is no ext4 is not clean either."""
    path = tmp_path / "disk.img"
    image.write(path)
    assert is_clean(path)
    for state in ("0", "3", "5"):  # mounted, with errors, with files that were deleted while open
        subprocess.run(["debugfs", "-w", "-R", f"set_super_value state {state}", str(path)], capture_output=True, check=True)
        assert not is_clean(path)
    path.write_bytes(b"")
    assert not is_clean(path)
