"""Disks that outlive their processes: they are closed whole, and a crash at any line loses no synced byte."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.disks import images, kept
from cloister.errors import IsolationError, RuntimeFailedError
from cloister.linux.loop import devices_of
from cloister.model.resources import Limits
from cloister.node.host import close_host
from cloister.runtime.namespace import runtime as namespace_runtime
from cloister.runtime.namespace import sandbox as namespace_sandbox
from cloister.runtime.namespace.diskcheck import check_disk
from cloister.runtime.namespace.runtime import NamespaceRuntime
from cloister.runtime.spec import SandboxSpec, Sharing
from framework.build_node import BuildNode, build_node, node_at
from framework.kept_disk import POINTS, box, check_image, dying_node, make_box, start

pytestmark = [pytest.mark.root, pytest.mark.templates]

_FILES = """
import hashlib, os, struct
os.makedirs("/opt/kept/dir"); os.chdir("/opt/kept")
data = os.urandom(24 << 20)
open("random", "wb").write(data); open("sum", "w").write(hashlib.sha256(data).hexdigest())
open("owned", "w").write("x"); os.chown("owned", 1234, 4321); os.chmod("owned", 0o6755)
os.link("owned", "dir/linked")
os.symlink("/nowhere", "link")
os.mkfifo("fifo"); os.chown("fifo", 65535, 65535)
open("sparse", "wb").truncate(1 << 30); os.pwrite(os.open("sparse", os.O_WRONLY), b"end", (1 << 30) - 3)
open("labelled", "w").close(); os.setxattr("labelled", "user.note", b"kept")
os.setxattr("labelled", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0))
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in
    ((1, 6, 0xFFFFFFFF), (2, 4, 1000), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)))
os.setxattr("labelled", "system.posix_acl_access", acl)
"""
_CHANGE = (
    "rm /etc/issue; rm -rf /usr/share/doc; mkdir /usr/share/doc; cp -a /etc/apt /opt/apt; cp -a /etc/apt /etc/apt.new; rm -rf /etc/apt"
)
_BUSY = (
    "cd /opt; while :; do n=$RANDOM; cp -r /etc t$((n % 7)); head -c 300K /dev/urandom > f$n; mv f$n g$((n % 9)); "
    "rm -rf t$((n % 5)) g$((n % 5)); done"
)
_LOOK = """
import hashlib, os, stat
os.chdir("/opt/kept")
def told(path):
    found = os.lstat(path)
    return path, oct(found.st_mode), found.st_uid, found.st_gid, found.st_size, found.st_nlink, int(found.st_mtime)
print([told(name) for name in ("random", "owned", "dir", "dir/linked", "link", "fifo", "sparse", "labelled")])
print(os.stat("owned").st_ino == os.stat("dir/linked").st_ino, os.readlink("link"), os.stat("sparse").st_blocks)
print({name: os.getxattr("labelled", name) for name in ("user.note", "security.capability", "system.posix_acl_access")})
print(hashlib.sha256(open("random", "rb").read()).hexdigest() == open("sum").read())
print(os.path.exists("/etc/issue"), os.listdir("/usr/share/doc"), os.path.exists("/etc/apt"))
print(sorted(os.listdir("/etc/apt.new")) == sorted(os.listdir("/opt/apt")))
for name in ("/etc/hostname", "/etc/machine-id", "/etc/hosts"): print(open(name).read())
"""


@pytest.fixture(scope="module")
def node(stock_templates: None) -> Iterator[BuildNode]:
    """One node for all tests of this file."""
    with build_node() as made:
        yield made


def python(text: str) -> str:
    """A shell command that runs it."""
    return f"python3 - <<'END'\n{text}\nEND\n"


def test_all_of_a_disk_is_kept(node: BuildNode) -> None:
    """Contents, owners, modes, links, labels, holes and deletions are; only the boot id is another one."""
    with box(node) as made:
        made.run(python(_FILES))
        made.run(_CHANGE)
        before, boot = made.run(python(_LOOK)), made.run("cat /proc/sys/kernel/random/boot_id")
        slot = made.sandbox.network_slot
        made.pause()
        check_image(made.image)
        assert kept.is_whole(made.image)
        with box(node):  # which takes the slot
            made.resume()
            assert made.sandbox.network_slot != slot
            assert made.run(python(_LOOK)) == before
            assert made.run("cat /proc/sys/kernel/random/boot_id") != boot
            assert made.run("cat /etc/hostname").strip() == made.spec.sandbox_id == made.run("hostname").strip()
        made.run("echo more >> /opt/more")
        made.pause()
        check_image(made.image)
        assert kept.is_whole(made.image)
        made.resume()
        assert made.run("cat /opt/more") == "more\n"


def test_what_is_not_used_goes_back_to_the_host(node: BuildNode) -> None:
    """A kept disk takes the space of its files only; it is removed with its sandbox."""
    with box(node) as made:
        made.run("head -c 100M /dev/urandom > /opt/large; sync; rm /opt/large; head -c 5M /dev/urandom > /opt/small")
        space = node.host.resources.space
        assert space.knows(made.spec.sandbox_id)
        made.pause()
        assert 5 << 20 <= made.image.stat().st_blocks * 512 < 40 << 20
        assert not space.knows(made.spec.sandbox_id)
        made.resume()
        assert space.knows(made.spec.sandbox_id)
        assert made.sandbox.usage().disk_used_bytes > 5 << 20
        made.sandbox.kill()
        made.sandbox.release()
        assert not made.image.exists()


def test_a_disk_that_is_still_open_is_not_taken_for_closed(node: BuildNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so, the image stays, and the next try succeeds; a sandbox is never started on it meanwhile."""
    monkeypatch.setattr(namespace_sandbox, "DISK_TIMEOUT_S", 0.3)
    monkeypatch.setattr(namespace_runtime, "DISK_TIMEOUT_S", 0.3)
    with box(node) as made:
        made.run("echo kept > /opt/x")
        other = images.reopen_disk(made.image, devices_of(made.image)[0])
        with pytest.raises(RuntimeFailedError, match="lives"):
            made.sandbox.keep_disk()
        made.sandbox.kill()
        with pytest.raises(RuntimeFailedError, match=r"still open \(loop\d+\)"):
            made.sandbox.keep_disk()
        assert not kept.is_whole(made.image)
        with pytest.raises(RuntimeFailedError, match="still open"):
            made.resume()
        os.close(other)
        made.sandbox.keep_disk()
        check_image(made.image)
        assert kept.is_whole(made.image)
        assert set(made.sandbox.state()) == {"trees"}
        made.sandbox.release()
        made.resume()
        assert made.run("cat /opt/x") == "kept\n"


def test_a_creation_that_fails_leaves_the_disk(node: BuildNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed whole again, so that the next one needs no check."""
    with box(node) as made:
        made.run("echo kept > /opt/x")
        made.pause()
        broken = replace(made.spec, has_disk=True, layers=(made.spec.directory / "none",))
        with pytest.raises(IsolationError):
            start(node, broken)
        check_image(made.image)
        assert kept.is_whole(made.image)
        monkeypatch.setattr(namespace_runtime, "check_disk", None)
        made.resume()
        assert made.run("cat /opt/x") == "kept\n"


def test_a_disk_that_cannot_be_repaired_is_refused(node: BuildNode) -> None:
    """With the cause; it stays where it is. One that is gone is told of too."""
    with box(node) as made:
        made.pause()
        size = made.image.stat().st_size
        whole = made.image.with_name("whole.img")
        shutil.copy(made.image, whole)
        made.image.write_bytes(b"no file system")
        os.truncate(made.image, size)
        with pytest.raises(RuntimeFailedError, match=r"damaged and cannot be repaired \(e2fsck: status 8"):
            made.resume()
        made.image.unlink()
        with pytest.raises(RuntimeFailedError, match="is gone"):
            made.resume()
        whole.rename(made.image)
        made.resume()
        assert not (made.spec.directory / "check").exists()


def test_a_host_that_goes_down_at_any_instant_loses_nothing_synced(node: BuildNode) -> None:
    """A copy of the image, taken while programs write, is repaired, and the files that were synced are in it."""
    with box(node) as made:
        made.run(
            python(_FILES)
            + "rm /etc/issue; rm -rf /usr/share/doc; mkdir /usr/share/doc; cp -a /etc/apt /opt/apt; mv /etc/apt /etc/apt.new; sync"
        )
        before = made.run(python(_LOOK))
        made.run(f"(setsid bash -c '{_BUSY}' > /dev/null 2>&1 &)")
        for number in range(3):
            made.run(f"sleep 0.{random.randrange(1, 9)}")
            with made.sandbox.frozen():
                directory = node.build_sandboxes.directory / f"copy-{number}"
                directory.mkdir(mode=0o700)
                shutil.copy(made.image, directory / "disk.img")
            assert not kept.is_whole(directory / "disk.img")
            again = replace(made.spec, sandbox_id=f"{made.spec.sandbox_id}{number}", directory=directory, has_disk=True)
            copy = replace(made, spec=again, sandbox=start(node, again))
            try:
                assert copy.run(python(_LOOK)) == before
                copy.pause()
                check_image(copy.image)
            finally:
                copy.sandbox.kill()
                copy.sandbox.release()


@pytest.mark.parametrize("point", POINTS)
def test_a_death_in_the_middle_of_a_pause_loses_nothing(point: str, stock_templates: None, tmp_path: Path) -> None:
    """The next node closes the disk, and all files are on it."""
    sandbox_id, digest = dying_node(tmp_path, point)
    node = node_at(tmp_path)
    try:
        node.host.sweep(set)
        made = make_box(node, tmp_path / "node" / "others")
        own = tmp_path / "node" / "sandboxes" / sandbox_id
        spec = replace(made.spec, sandbox_id=sandbox_id, directory=own, has_disk=True)
        assert node.host.runtime.find_disk(spec)
        check_image(own / "disk.img")
        again = replace(made, spec=spec, sandbox=start(node, spec))
        assert again.run("sha256sum -c /opt/sum > /dev/null; cut -d ' ' -f 1 /opt/sum").strip() == digest
        for one in (made, again):
            one.sandbox.kill()
            one.sandbox.release()
        nobody = SandboxSpec(sandbox_id="none", sharing=Sharing(key=""), directory=tmp_path, layers=(), agent=None, limits=Limits())
        assert not node.host.runtime.find_disk(nobody)
    finally:
        close_host(node.host)


def test_the_checker_repairs(node: BuildNode) -> None:
    """A disk whose free blocks are counted wrongly is sound afterwards, and its files are there."""
    with box(node) as made:
        made.run("echo kept > /opt/x")
        made.pause()
        for change in ("set_super_value free_blocks_count 1", "set_super_value state 0"):
            subprocess.run(["debugfs", "-w", "-R", change, str(made.image)], capture_output=True, check=True)
        assert not kept.is_whole(made.image)
        assert isinstance(node.host.runtime, NamespaceRuntime)
        starter = node.host.runtime._starter
        report = check_disk(starter, made.image)
        assert "FILE SYSTEM WAS MODIFIED" in report
        made.resume()
        assert made.run("cat /opt/x") == "kept\n"
