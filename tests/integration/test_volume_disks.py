"""Images of volumes while their supervisor is killed, while two copies are made at once, and while one that is being made is removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloister.disks import volumes
from cloister.disks.images import reopen_disk
from cloister.disks.space import DiskSpace
from cloister.disks.volumes import VolumeDisks
from cloister.errors import ConflictError
from cloister.linux.ext4live import thaw
from cloister.linux.loop import devices_of
from framework.waiting import eventually

pytestmark = pytest.mark.root

_COPY = """
import os, sys
from pathlib import Path
from cloister.disks import volumes
from cloister.disks.space import DiskSpace
def copy_sparse(source, target):
    print("frozen", flush=True)
    sys.stdin.read()
volumes.copy_sparse = copy_sparse
directory = Path(sys.argv[1])
disks = volumes.VolumeDisks(directory / "volumes", DiskSpace(directory, 0, 4.0))
disks.open()
disks.make("original", 64, 4096)
disks.copy("original", "copy")
"""


def disks_in(directory: Path) -> VolumeDisks:
    """Those of a supervisor that starts now."""
    space = DiskSpace(directory, 0, 4.0)
    space.survey()
    disks = VolumeDisks(directory / "volumes", space)
    disks.open()
    return disks


def kill_while_it_copies(directory: Path) -> None:
    """Make a volume, and kill the supervisor that copies it."""
    with subprocess.Popen([sys.executable, "-c", _COPY, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == b"frozen\n"
        supervisor.send_signal(signal.SIGKILL)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """Of a volume whose supervisor was killed while it copied. A freeze that is left at the end would hold processes for ever."""
    kill_while_it_copies(tmp_path)
    found = tmp_path / "volumes" / "original" / "volume.img"
    with found.open("rb") as kept:
        yield found
        attached = Path(f"/proc/self/fd/{kept.fileno()}")
        for number in devices_of(attached):
            fd = reopen_disk(attached, number)
            thaw(fd)
            os.close(fd)


def test_writers_go_on_after_a_supervisor_was_killed_while_it_copied(tmp_path: Path, image: Path) -> None:
    """The next one that opens the volume ends the freeze, which no end of a process and of a mount does."""
    disks = disks_in(tmp_path)
    assert disks.ids() == ["original"]
    disks.adopt("original", "sandbox")
    is_written = threading.Event()

    def write() -> None:
        fd = reopen_disk(image, disks.device("original"))
        root = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.mkdir("written", dir_fd=root)
        os.close(root)
        os.close(fd)
        is_written.set()

    threading.Thread(target=write, daemon=True).start()
    assert is_written.wait(30)
    disks.let_go("sandbox")
    disks.remove("original")


def test_a_volume_that_was_frozen_at_a_kill_is_removed_whole(tmp_path: Path, image: Path) -> None:
    """A frozen file system without a user would keep its loop device, and the space of its image."""
    disks = disks_in(tmp_path)
    with image.open("rb") as kept:
        assert devices_of(image)
        assert disks.remove("original")
        attached = Path(f"/proc/self/fd/{kept.fileno()}")
        eventually(lambda: not devices_of(attached))


def hold_copies(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Copies say that they have begun, and wait."""
    has_begun, may_end = threading.Event(), threading.Event()
    copy: Callable[[Path, Path], None] = volumes.__dict__["copy_sparse"]

    def wait(source: Path, target: Path) -> None:
        has_begun.set()
        assert may_end.wait(60)
        copy(source, target)

    monkeypatch.setattr(volumes, "copy_sparse", wait)
    return has_begun, may_end


@pytest.mark.parametrize("is_removed", [False, True])
def test_what_happens_to_a_volume_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_removed: bool) -> None:
    """A second copy, a copy to the same name, and a removal of the original are refused. A removed copy never appears."""
    has_begun, may_end = hold_copies(monkeypatch)
    disks, errors = disks_in(tmp_path), list[ConflictError]()
    disks.make("original", 64, 4096)

    def copy() -> None:
        try:
            disks.copy("original", "copy")
        except ConflictError as error:
            errors.append(error)

    thread = threading.Thread(target=copy)
    thread.start()
    assert has_begun.wait(60)
    try:
        with pytest.raises(ConflictError, match="is being copied"):
            disks.copy("original", "another")
        with pytest.raises(ConflictError, match="is being made"):
            disks.copy("original", "copy")
        with pytest.raises(ConflictError, match="in use"):
            disks.remove("original")
        if is_removed:
            assert disks.remove("copy")
    finally:
        may_end.set()
        thread.join()
    assert [str(error) for error in errors] == (["the volume was removed while it was made"] if is_removed else [])
    assert sorted(path.name for path in (tmp_path / "volumes").iterdir()) == (["original"] if is_removed else ["copy", "original"])
    disks.copy("original", "another")
    for volume_id in disks.ids():
        disks.remove(volume_id)
