"""Control groups of both versions, on a plain directory that plays /sys/fs/cgroup."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from cloister.errors import DeadlineError, IsolationError
from cloister.linux.cgroup import _TreeV2, find_tree
from cloister.model.resources import Limits

LIMITS = Limits(cpu_count=1.5, mem_mib=100, pids=50)


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """A host with version 1 (and a v2 tree without controllers beside it)."""
    for controller in ("memory", "cpu", "cpuacct", "pids", "freezer", "unified"):
        (tmp_path / controller).mkdir()
        (tmp_path / controller / "cgroup.procs").touch()
    return tmp_path


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """A host with version 2."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids rdma misc\n")
    return tmp_path


def test_v1_limits(v1: Path) -> None:
    """Each limit is written to its controller's own file."""
    tree = find_tree(3, v1)
    tree.create("a", LIMITS)
    assert tree.version == 1
    assert (v1 / "memory/cloister/3/a/memory.limit_in_bytes").read_text() == str(100 << 20)
    assert (v1 / "cpu/cloister/3/a/cpu.cfs_quota_us").read_text() == "150000"
    assert (v1 / "pids/cloister/3/a/pids.max").read_text() == "50"
    assert not (v1 / "memory/cloister/3/a/memory.kmem.tcp.limit_in_bytes").exists()
    tree.attach("a", 77)
    assert {(v1 / c / "cloister/3/a/cgroup.procs").read_text() for c in ("memory", "cpu", "cpuacct", "pids", "freezer")} == {"77"}


def test_v1_bounds_buffers_of_sockets(v1: Path) -> None:
    """Where the kernel has the file, they get an eighth of the memory."""
    file = v1 / "memory/cloister/3/a/memory.kmem.tcp.limit_in_bytes"
    file.parent.mkdir(parents=True)
    file.touch()
    find_tree(3, v1).create("a", LIMITS)
    assert int(file.read_text()) == 100 * 1024 * 1024 // 8


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_processes_of_all_servers_are_bounded(version: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The group above all servers' leaves the host an eighth of the lower of the kernel's two limits."""
    root: Path = request.getfixturevalue(version)
    for name, value in (("pid_max", 32_768), ("threads-max", 8_000)):
        (tmp_path / name).write_text(f"{value}\n")
    find_tree(3, root).bound_all(tmp_path)
    assert (root / ("pids/cloister" if version == "v1" else "cloister") / "pids.max").read_text() == "7000"


def test_v2_limits(v2: Path) -> None:
    """The controllers are handed down to the group, and its limits are written."""
    tree = find_tree(3, v2)
    tree.create("a", LIMITS)
    assert tree.version == 2
    for parent in ("", "cloister", "cloister/3"):
        assert (v2 / parent / "cgroup.subtree_control").read_text() == "+cpu +memory +pids +io"
    group = v2 / "cloister/3/a"
    assert (group / "memory.max").read_text() == str(100 << 20)
    assert (group / "cpu.max").read_text() == "150000 100000"
    assert (group / "pids.max").read_text() == "50"


def test_v2_usage(v2: Path) -> None:
    """Usage is read from the files that version 2 has."""
    tree = find_tree(0, v2)
    tree.create("a", LIMITS)
    group = v2 / "cloister/0/a"
    (group / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (group / "memory.current").write_text("4096\n")
    (group / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    (group / "pids.current").write_text("3\n")
    (group / "memory.stat").write_text("anon 1\nfile 2048\nshmem 512\ninactive_file 1024\n")
    (group / "pids.events").write_text("max 7\n")
    usage = tree.usage("a")
    assert (usage.cpu_used_s, usage.mem_limit_bytes, usage.oom_kills, usage.pids, usage.pids_refused) == (2.5, 100 << 20, 2, 3, 7)
    assert (usage.mem_cache_bytes, usage.mem_used_bytes) == (1536, 2560)
    assert tree.cpu_used_s("a") == 2.5


def test_v1_usage(v1: Path) -> None:
    """Memory in use is without the cache, of which files in memory are no part."""
    tree = find_tree(0, v1)
    tree.create("a", LIMITS)
    for name, text in {
        "cpuacct/cloister/0/a/cpuacct.usage": "1500000000\n",
        "memory/cloister/0/a/memory.usage_in_bytes": "10000\n",
        "memory/cloister/0/a/memory.stat": "cache 1\ntotal_cache 4000\ntotal_shmem 1000\n",
        "memory/cloister/0/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
        "pids/cloister/0/a/pids.current": "3\n",
        "pids/cloister/0/a/pids.events": "max 2\n",
    }.items():
        (v1 / name).write_text(text)
    usage = tree.usage("a")
    assert (usage.cpu_used_s, usage.mem_used_bytes, usage.mem_cache_bytes) == (1.5, 7000, 3000)
    assert (usage.oom_kills, usage.pids, usage.pids_refused) == (4, 3, 2)


def test_names_are_those_of_the_instance_only(v1: Path) -> None:
    """Another instance's groups are never listed."""
    find_tree(1, v1).create("mine", None)
    find_tree(2, v1).create("other", None)
    assert find_tree(1, v1).names() == {"mine"}


def test_limit_that_cannot_be_set_stops_the_creation(v1: Path) -> None:
    """A hardening step that fails is an IsolationError, not a warning (I7)."""
    tree = find_tree(0, v1)
    (v1 / "pids/cloister/0/a/pids.max").mkdir(parents=True)
    with pytest.raises(IsolationError):
        tree.create("a", LIMITS)


def test_host_without_controllers_is_refused(tmp_path: Path) -> None:
    """Neither version: an error with a remedy."""
    with pytest.raises(IsolationError) as caught:
        find_tree(0, tmp_path)
    assert caught.value.hint


def test_v1_freezing(v1: Path) -> None:
    """Written until the kernel says that all stands still; thawing is one write."""
    tree = find_tree(3, v1)
    tree.create("a", None)
    state = v1 / "freezer/cloister/3/a/freezer.state"
    state.write_text("FREEZING")
    told = threading.Timer(0.1, lambda: state.write_text("FROZEN\n"))
    told.start()
    tree.freeze("a", 5)
    assert tree.is_frozen("a")
    told.join()
    tree.thaw("a")
    assert state.read_text().startswith("THAWED")


def test_v2_freezing(v2: Path) -> None:
    """The wish goes to one file, the answer comes from another."""
    tree = find_tree(3, v2)
    tree.create("a", None)
    group = v2 / "cloister/3/a"
    (group / "cgroup.freeze").write_text("0")
    (group / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    tree.freeze("a", 5)
    assert (group / "cgroup.freeze").read_text() == "1"
    tree.thaw("a")
    assert (group / "cgroup.freeze").read_text() == "0"


def test_what_does_not_freeze_in_time_is_thawed(v2: Path) -> None:
    """And a group that is gone is thawed without a word, but not made by it."""
    tree = find_tree(3, v2)
    tree.create("a", None)
    group = v2 / "cloister/3/a"
    (group / "cgroup.freeze").write_text("0")
    (group / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    with pytest.raises(DeadlineError, match="a did not freeze"):
        tree.freeze("a", 0.05)
    assert (group / "cgroup.freeze").read_text() == "0"
    tree.thaw("none")
    assert not (v2 / "cloister/3/none").exists()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_start_leaves_paused_groups_frozen(version: str, request: pytest.FixtureRequest) -> None:
    """And thaws every other one."""
    root: Path = request.getfixturevalue(version)
    tree = find_tree(3, root)
    asked, thawed = ("FREEZING", "THAWED") if version == "v1" else ("1", "0")
    files = {}
    for name in ("paused", "left"):
        tree.create(name, None)
        files[name] = root / (f"freezer/cloister/3/{name}/freezer.state" if version == "v1" else f"cloister/3/{name}/cgroup.freeze")
        files[name].write_text(asked)
    tree.thaw_all(but={"paused", "gone"})
    assert tree.is_to_freeze("paused")
    assert files["paused"].read_text() == asked
    assert files["left"].read_text().startswith(thawed)


def test_swap_of_a_group(v1: Path, v2: Path) -> None:
    """It may be used only while it is allowed on version 2; on version 1 the limit covers memory and swap."""
    one, two = find_tree(0, v1), _TreeV2(0, v2)
    for tree in (one, two):
        tree.create("a", None)
    (v1 / "memory/cloister/0/a/memory.stat").write_text("cache 1\ntotal_swap 4096\n")
    assert one.swapped_bytes("a") == 4096
    one.allow_swap("a", allowed=True)
    assert two.swapped_bytes("a") == 0
    two.allow_swap("a", allowed=True)
    files = [v2 / "cloister/0/a" / f"memory.swap.{name}" for name in ("current", "max")]
    assert not files[1].exists()
    files[0].write_text("8192\n")
    files[1].write_text("0")
    assert two.swapped_bytes("a") == 8192
    two.allow_swap("a", allowed=True)
    assert files[1].read_text() == "max"
    two.allow_swap("a", allowed=False)
    assert files[1].read_text() == "0"


def test_resident_bytes_on_v2(v2: Path) -> None:
    """Programs' memory and files of a tmpfs count, the page cache does not."""
    tree = find_tree(3, v2)
    tree.create("a", None)
    group = v2 / "cloister/3/a"
    (group / "memory.stat").write_text("anon 100\nfile 2048\nshmem 12\n")
    assert tree.resident_bytes("a") == 112


def test_resident_bytes_on_v1(v1: Path) -> None:
    """Those of the whole tree of groups below, which is what its limit counts."""
    tree = find_tree(3, v1)
    tree.create("a", None)
    stat = v1 / "memory/cloister/3/a/memory.stat"
    stat.write_text("rss 1\ntotal_rss 100\ntotal_cache 2048\ntotal_shmem 12\n")
    assert tree.resident_bytes("a") == 112


def test_memory_of_a_group_is_given_back(v1: Path, v2: Path) -> None:
    """Each version has a file for it; a kernel without it gives nothing back."""
    one, two = find_tree(0, v1), _TreeV2(0, v2)
    for tree in (one, two):
        tree.create("a", None)
    one.page_out("a", lambda: True, 5)
    (v1 / "memory/cloister/0/a/memory.force_empty").touch()
    one.page_out("a", lambda: True, 5)
    assert (v1 / "memory/cloister/0/a/memory.force_empty").read_text() == "0\n"
    group = v2 / "cloister/0/a"
    (group / "memory.current").write_text("4096\n")
    (group / "memory.reclaim").touch()
    two.page_out("a", lambda: True, 5)
    assert (group / "memory.reclaim").read_text() == "4096\n"


def test_giving_memory_back_ends_with_the_pause(v1: Path) -> None:
    """The kernel, played by a file that takes no text, is asked no longer; so it is after the time that was given."""
    tree = find_tree(0, v1)
    tree.create("a", None)
    os.mkfifo(v1 / "memory/cloister/0/a/memory.force_empty")
    asked = iter([True, True, False])
    tree.page_out("a", lambda: next(asked, False), 60)
    tree.page_out("a", lambda: True, 0.01)
