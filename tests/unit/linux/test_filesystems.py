"""The kind of file system that a path is on, by the kernel's table of mounts."""

from __future__ import annotations

import os
from pathlib import Path

from cloister.linux.filesystems import existing_part, filesystem_name


def table(tmp_path: Path, *mounts: tuple[str, str, str]) -> Path:
    """A table of (device, mount point, kind), in the form of proc_pid_mountinfo(5)."""
    file = tmp_path / "mountinfo"
    lines = [f"{n} 1 {device} / {point} rw,relatime shared:{n} - {kind} none rw" for n, (device, point, kind) in enumerate(mounts, 30)]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_the_kind_of_this_hosts_proc() -> None:
    """The real table names the file system of /proc."""
    assert filesystem_name(Path("/proc")) == "proc"


def test_a_device_names_its_mount(tmp_path: Path) -> None:
    """The mount of the path's device counts, the last one if there are several, without a subtype."""
    device = tmp_path.stat().st_dev
    own = f"{os.major(device)}:{os.minor(device)}"
    assert filesystem_name(tmp_path, table(tmp_path, ("0:1", "/", "overlay"), (own, "/a", "ext4"), (own, "/b", "fuse.sshfs"))) == "fuse"


def test_else_the_mount_point_that_is_nearest(tmp_path: Path) -> None:
    """A file system whose files tell another device, such as btrfs, is found by its mount point; spaces in it are read."""
    (tmp_path / "a b").mkdir()
    mounts = table(tmp_path, ("0:900", "/", "overlay"), ("0:901", str(tmp_path), "xfs"), ("0:902", f"{tmp_path}/a\\040b", "btrfs"))
    assert filesystem_name(tmp_path / "a b", mounts) == "btrfs"
    assert filesystem_name(tmp_path, mounts) == "xfs"
    assert filesystem_name(Path("/usr"), mounts) == "overlay"


def test_the_part_of_a_path_that_exists(tmp_path: Path) -> None:
    """The path itself, a broken link too, else its nearest parent that is there."""
    (tmp_path / "link").symlink_to("nowhere")
    assert existing_part(tmp_path / "link") == tmp_path / "link"
    assert existing_part(tmp_path / "a" / "b") == tmp_path
