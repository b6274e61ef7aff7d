"""Bounds of loop devices, in the words of each version of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.linux.blkio import Rates, bound_device_v1, bound_device_v2, clear_unused_v1, lacks_rates

_NAMES = tuple(f"blkio.throttle.{way}_{what}_device" for way in ("read", "write") for what in ("bps", "iops"))


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """A tree of version 1 with the root group's files."""
    (tmp_path / "blkio").mkdir()
    for name in _NAMES:
        (tmp_path / "blkio" / name).write_text("")
    return tmp_path


def test_v1_bounds_reading_and_writing(v1: Path) -> None:
    """Each file gets the device's number and its bound; no bound is zero."""
    bound_device_v1(3, Rates(1 << 20, 500), v1)
    assert [(v1 / "blkio" / name).read_text() for name in _NAMES] == ["7:3 1048576", "7:3 500"] * 2
    bound_device_v1(3, Rates(1 << 10, None), v1)
    assert (v1 / "blkio" / _NAMES[1]).read_text().startswith("7:3 0")


def test_v1_frees_what_nothing_uses(v1: Path, tmp_path: Path) -> None:
    """A device that is attached keeps its bound, and one that is no loop device too."""
    (tmp_path / "block/loop1/loop").mkdir(parents=True)
    (tmp_path / "block/loop1/loop/backing_file").write_text("/disk.img")
    written = v1 / "blkio" / _NAMES[2]
    written.write_text("8:0 100\n7:1 100\n7:2 100\n")
    (v1 / "blkio" / _NAMES[0]).write_text("8:2 100\n7:1 100\n")
    clear_unused_v1(v1, tmp_path / "block")
    assert written.read_text().startswith("7:2 0")
    assert (v1 / "blkio" / _NAMES[0]).read_text() == "8:2 100\n7:1 100\n"


def test_v2_bounds_in_one_line(tmp_path: Path) -> None:
    """No bound is ``max``."""
    (tmp_path / "io.max").write_text("")
    bound_device_v2(4, Rates(1 << 20, None), tmp_path)
    assert (tmp_path / "io.max").read_text() == "7:4 rbps=1048576 wbps=1048576 riops=max wiops=max"


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A host that cannot bound devices is told from one that can."""
    with pytest.raises(FileNotFoundError):
        bound_device_v2(4, Rates(1, 1), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_host_lacks(v1: Path, tmp_path: Path) -> None:
    """Version 1 needs the throttling files, version 2 the io controller."""
    assert not lacks_rates(1, v1)
    assert "blkio" in lacks_rates(1, tmp_path / "nowhere")
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    assert "io controller" in lacks_rates(2, tmp_path)
    (tmp_path / "cgroup.controllers").write_text("cpu io memory\n")
    assert not lacks_rates(2, tmp_path)
