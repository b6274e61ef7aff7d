"""Attacks by a disk that outlives its sandbox, on the supervisor and on the checker."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.disks import kept
from cloister.errors import IsolationError, RuntimeFailedError
from cloister.linux.ext4 import is_clean
from cloister.runtime.namespace import diskcheck
from cloister.runtime.namespace import runtime as namespace_runtime
from framework.build_node import BuildNode, build_node
from framework.kept_disk import Box, box

pytestmark = [pytest.mark.root, pytest.mark.templates]

_HOSTILE = Path(__file__).parents[1] / "framework" / "programs" / "hostile_fsck.c"
_TARGET = (
    "mkdir -p /opt/target/log; for name in hostname hosts machine-id online log/cloister-agent.log; do echo own > /opt/target/$name; done"
)


@pytest.fixture(scope="module")
def node(stock_templates: None) -> Iterator[BuildNode]:
    """One node for all attacks of this file."""
    with build_node() as made:
        yield made


@pytest.fixture
def victim(node: BuildNode) -> Iterator[Box]:
    """A sandbox that is paused to its files, and started again."""
    with box(node) as made:
        yield made


def digest_of(path: Path) -> str:
    """Of the content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize(
    "replaced",
    [
        "mv /etc /etc.old; ln -s /upper/u/opt/target /etc",
        "mv /etc /etc.old; ln -s /opt/target /etc",
        "rm /etc/hostname; ln -s ../opt/target/hostname /etc/hostname",
        "rm /etc/hosts; mkdir /etc/hosts",
        "rm /etc/machine-id; mkfifo /etc/machine-id",
        "rm -rf /etc",
        "mv /sys /sys.old; ln -s /opt/target /sys",
        "rm -rf /sys; echo > /sys",
        "mv /var /var.old; ln -s /opt/target /var",
        "rm /var/log/cloister-agent.log; mkdir /var/log/cloister-agent.log",
        "rm /var/log/cloister-agent.log; ln -s /opt/target/hostname /var/log/cloister-agent.log",
        "rm -rf /tmp /run /var/tmp; ln -s / /tmp",
    ],
)
def test_sandbox_cannot_have_its_links_followed(victim: Box, replaced: str) -> None:
    """It replaces the files that the supervisor wrote; nothing is written there, and the sandbox starts again."""
    victim.run(f"{_TARGET}; {replaced}")
    victim.pause()
    victim.resume()
    assert victim.run("cat /opt/target/hostname /opt/target/hosts /opt/target/machine-id /opt/target/online") == "own\n" * 4


@pytest.mark.parametrize(
    "replaced", ["mv /proc /proc.old", "umount /dev; rmdir /dev", "mv /.cloister /opt/moved; ln -s /opt/moved /.cloister"]
)
def test_sandbox_cannot_move_its_mount_points_out_of_its_root(victim: Box, replaced: str) -> None:
    """It starts again as confined as before, or does not start, and can then still be ended."""
    victim.run(f"{replaced}; true")
    victim.pause()
    try:
        victim.resume()
    except (IsolationError, RuntimeFailedError):
        assert victim.image.exists()
        return
    assert victim.run("head -c 1 /proc/kallsyms | wc -c; ls /proc/self/fd | wc -l").startswith("0\n")


def test_checker_cannot_touch_more_than_the_image(victim: Box, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hostile checker finds no file of the host, makes none, and fills its own small disk only."""
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-o", tmp_path / "e2fsck", _HOSTILE], check=True)
    monkeypatch.setattr(diskcheck, "_SEARCH", f"{tmp_path}:{diskcheck._SEARCH}")
    victim.run("echo kept > /opt/x")
    victim.pause()
    size, digest = victim.image.stat().st_size, digest_of(victim.image)
    victim.image.with_suffix(".closed").unlink()
    with pytest.raises(RuntimeFailedError, match="status 4") as caught:
        victim.resume()
    outcome = dict(re.findall(r"(\w+)=(\w+)", str(caught.value)))
    assert outcome.pop("open") == "done"
    assert int(outcome.pop("kept_mib")) < 16
    assert "done" not in outcome.values(), outcome
    assert len(outcome) == 8, outcome
    assert victim.image.stat().st_size == size
    assert digest_of(victim.image) == digest
    assert sorted(path.name for path in victim.spec.directory.iterdir()) == ["disk.img"]


@pytest.mark.parametrize("trace", ["no mark", "state"])
def test_crash_cannot_have_a_torn_disk_used(victim: Box, monkeypatch: pytest.MonkeyPatch, trace: str) -> None:
    """One whose superblock or whose mark is missing is checked first."""
    checked: list[Path] = []

    def check(_starter: object, image: Path) -> str:
        checked.append(image)
        raise RuntimeFailedError("checked")

    victim.pause()
    assert kept.is_whole(victim.image)
    if trace == "no mark":
        victim.image.with_suffix(".closed").unlink()
    else:
        with victim.image.open("r+b") as file:
            file.seek(1024 + 0x3A)
            file.write(b"\0\0")
    assert is_clean(victim.image) == (trace == "no mark")
    monkeypatch.setattr(namespace_runtime, "check_disk", check)
    with pytest.raises(RuntimeFailedError, match="checked"):
        victim.resume()
    assert checked == [victim.image]


def test_damage_cannot_pass_for_a_new_sandbox(victim: Box) -> None:
    """A disk that has lost all the sandbox's files is refused, and not filled with new ones."""
    victim.run("echo kept > /opt/x")
    victim.pause()
    saved = victim.image.with_name("saved.img")
    shutil.copy(victim.image, saved)
    subprocess.run(["debugfs", "-w", "-R", "unlink u", victim.image], check=True, capture_output=True)
    victim.image.with_suffix(".closed").unlink()
    with pytest.raises(IsolationError, match="find the sandbox's files on its disk"):
        victim.resume()
    saved.rename(victim.image)
    victim.resume()
    assert victim.run("cat /opt/x") == "kept\n"
