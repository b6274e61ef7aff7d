"""Disks made ahead: as empty and separate as those made on the spot, of the right size, and gone with their maker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.disks import images
from cloister.disks.ready import Disks
from cloister.errors import IsolationError

pytestmark = pytest.mark.root

_HOLD = """
import sys, time
from pathlib import Path
from cloister.disks.ready import Disks
disks = Disks(Path(sys.argv[1]), print, depth=2)
fd = disks.take(Path(sys.argv[2]), 64, 1000)
disks.settle()
print("ready", flush=True)
time.sleep(60)
"""


def tell(event: str, fields: dict[str, object]) -> None:
    """Nothing is expected to go wrong here."""
    raise AssertionError(event, fields)


def loops(directory: Path) -> list[str]:
    """Images below the directory that a loop device is attached to."""
    done = subprocess.run(["losetup", "--noheadings", "--output", "BACK-FILE"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if str(directory) in line]


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    """Two ready disks of 64 MiB, once one was taken."""
    made = Disks(tmp_path / "pool", tell, depth=2)
    os.close(made.take(tmp_path / "first.img", 64, 1000))
    made.settle()
    yield made
    made.close()
    assert list((tmp_path / "pool").iterdir()) == []
    assert loops(tmp_path / "pool") == []


def size_mib(fd: int) -> int:
    """Of the file system, as ``statvfs`` says."""
    found = os.fstatvfs(fd)
    return found.f_blocks * found.f_frsize >> 20


def test_ready_disks_are_taken_once_and_made_again(disks: Disks, tmp_path: Path) -> None:
    """Each has its own image where it was asked for, and mkfs or mount are not waited for."""
    devices = set()
    for name in ("a", "b"):
        fd = disks.take(tmp_path / name, 64, 1000)
        devices.add(os.fstat(fd).st_dev)
        assert (tmp_path / name).stat().st_size == 64 << 20
        assert os.fstatvfs(fd).f_files - os.fstatvfs(fd).f_ffree < 16
        os.close(fd)
    assert len(devices) == 2
    disks.settle()
    assert len(list((tmp_path / "pool").iterdir())) == 2


def test_a_disk_of_another_size_is_what_was_asked_for(disks: Disks, tmp_path: Path) -> None:
    """The ready ones are no use then; those made next are of the new size."""
    for name in ("a", "b"):
        fd = disks.take(tmp_path / name, 200, 1000)
        assert 150 < size_mib(fd) <= 200
        os.close(fd)
        disks.settle()
    assert {path.stat().st_size for path in (tmp_path / "pool").iterdir()} == {200 << 20}


def test_a_disk_is_mapped_to_one_sandbox_only(disks: Disks, tmp_path: Path) -> None:
    """A second mapping of the same mount is refused by the kernel."""
    holder = subprocess.Popen(["unshare", "--user", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{holder.pid}/{name}").write_text("0 268500992 65536")
    userns = os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY)
    fd = disks.take(tmp_path / "a", 64, 1000)
    try:
        os.close(images.map_disk(fd, userns))
        with pytest.raises(IsolationError, match="id-map"):
            images.map_disk(fd, userns)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        os.close(userns)
        os.close(fd)


def test_the_death_of_the_maker_frees_devices_and_the_next_start_removes_images(tmp_path: Path) -> None:
    """Kill -9 leaves no mount and no loop device; a new pool in the directory leaves no image (I8)."""
    command = [sys.executable, "-c", _HOLD, str(tmp_path / "pool"), str(tmp_path / "taken.img")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        assert len(loops(tmp_path)) == 3
        holder.kill()
    deadline = time.monotonic() + 10
    while loops(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert loops(tmp_path) == []
    Disks(tmp_path / "pool", tell)
    assert list((tmp_path / "pool").iterdir()) == []
