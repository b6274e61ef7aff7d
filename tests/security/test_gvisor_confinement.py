"""The processes that a sandbox on gVisor is, as the host sees them: its kernel and its gofer. An attacker who has taken one has no more."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from cloister.linux.cgroup import find_tree
from cloister.node.instance import instance_of
from framework.server import Server
from framework.tiers import create_on

pytestmark = [pytest.mark.root, pytest.mark.templates]

_RUN = Path("/run/cloister")
_FIRST_ID = 0x1000_0000
_GOFER_POWER = 0x4_001F
"""chown, dac_override, dac_read_search, fowner, fsetid, sys_chroot. Source: capabilities(7)."""
_OWN_NAMESPACES = ("ipc", "mnt", "net", "pid", "user", "uts")


@dataclass(frozen=True)
class Box:
    """A live sandbox. ``processes`` are all of its control group: beside the two there are stubs, in which its programs run."""

    sandbox: Sandbox
    kernel: int
    gofer: int
    processes: frozenset[int]
    groups: dict[str, Path]
    run_dir: Path


@pytest.fixture(scope="module")
def box(gvisor_server: Server) -> Iterator[Box]:
    """One whose kernel runs programs."""
    server = gvisor_server
    sandbox = create_on(server, "gvisor", "base")
    sandbox.commands.run("sleep 1000", background=True)
    state = json.loads((server.data_dir / "node" / "sandboxes" / sandbox.sandbox_id / "record.json").read_text())["runtime"]
    number = instance_of(server.data_dir, _RUN)
    assert number is not None
    tree = find_tree(number)
    pids = frozenset(tree.pids(sandbox.sandbox_id))
    yield Box(sandbox, state["pid"], state["gofer"][0], pids, tree.directories(sandbox.sandbox_id), _RUN / str(number))
    sandbox.kill()


def status(pid: int) -> list[dict[str, str]]:
    """The host's account of each thread of a process. Source: proc(5)."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        try:
            lines = path.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        found.append(dict(line.split(":\t", 1) for line in lines if ":\t" in line))
    return found


def test_its_processes_are_all_there(box: Box) -> None:
    """The kernel, the gofer, and stubs: else the tests below would look at nothing."""
    assert {box.kernel, box.gofer} < box.processes
    assert all(status(pid) for pid in (box.kernel, box.gofer))


def test_kernel_of_a_sandbox_cannot_use_a_capability(box: Box) -> None:
    """Neither it nor a stub has one, in any set, nor can it get one by a program."""
    for pid in box.processes - {box.gofer}:
        for thread in status(pid):
            assert {thread[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
            assert thread["NoNewPrivs"] == "1"


def test_gofer_cannot_use_a_power_of_the_hosts(box: Box) -> None:
    """It has what files need, in a user namespace that has the sandbox's host ids alone."""
    for thread in status(box.gofer):
        for name in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
            assert int(thread[f"Cap{name}"], 16) & ~_GOFER_POWER == 0
        assert thread["NoNewPrivs"] == "1"
    inside, outside, count = map(int, Path(f"/proc/{box.gofer}/uid_map").read_text().split())
    assert (inside, count) == (0, 65_536)
    assert outside >= _FIRST_ID


def test_processes_of_a_sandbox_cannot_be_a_user_of_the_host(box: Box) -> None:
    """No thread has the id of root or of a person, nor a group of one."""
    for pid in box.processes:
        for thread in status(pid):
            ids = {int(word) for name in ("Uid", "Gid", "Groups") for word in thread[name].split()}
            assert all(one == 65_534 or one >= _FIRST_ID for one in ids), thread


def test_processes_of_a_sandbox_cannot_make_any_system_call(box: Box) -> None:
    """Each thread has a filter of system calls, beside what the sandbox's own kernel answers."""
    assert all(thread["Seccomp"] == "2" for pid in box.processes for thread in status(pid))


def test_processes_of_a_sandbox_cannot_enter_a_namespace_of_the_hosts(box: Box) -> None:
    """They have others of all kinds that isolate; the kernel and the gofer share no user namespace either."""
    own = {name: Path(f"/proc/self/ns/{name}").stat().st_ino for name in _OWN_NAMESPACES}
    for pid in (box.kernel, box.gofer):
        theirs = {name: Path(f"/proc/{pid}/ns/{name}").stat().st_ino for name in _OWN_NAMESPACES}
        assert not [name for name in own if own[name] == theirs[name]]
    assert Path(f"/proc/{box.kernel}/ns/user").stat().st_ino != Path(f"/proc/{box.gofer}/ns/user").stat().st_ino


def test_kernel_of_a_sandbox_cannot_open_a_file_by_name(box: Box) -> None:
    """Its root is a read-only file system with the time zone: every file of the sandbox comes from the gofer."""
    mounts = Path(f"/proc/{box.kernel}/mountinfo").read_text().splitlines()
    assert len(mounts) == 1
    assert " - tmpfs " in mounts[0]
    assert mounts[0].split()[5].startswith("ro")
    root = Path(f"/proc/{box.kernel}/root")
    assert {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} <= {"etc/localtime"}


def test_gofer_cannot_see_a_file_of_the_hosts(box: Box) -> None:
    """Its mounts are the sandbox's root and the agent's programs, and no directory of the host beside."""
    points = [line.split()[4] for line in Path(f"/proc/{box.gofer}/mountinfo").read_text().splitlines()]
    assert points[0] == "/"
    assert all(point.startswith(("/.cloister/", "/proc/sys/kernel/random/")) for point in points[1:])
    read_only = [line.split()[5].split(",")[0] for line in Path(f"/proc/{box.gofer}/mountinfo").read_text().splitlines()[1:]]
    assert set(read_only) <= {"ro"}


def test_processes_of_a_sandbox_cannot_write_by_an_inherited_descriptor(box: Box) -> None:
    """None leads to a directory of the host, and none of a file there can be written to: no leaked one, no working directory."""
    hosts = {path.stat().st_dev for path in (Path("/"), Path("/run"), Path("/sys/fs/cgroup"), box.run_dir, *box.groups.values())}
    for pid in (box.kernel, box.gofer):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found = fd.stat()
            except FileNotFoundError:  # it was just closed
                continue
            if found.st_dev not in hosts or stat.S_ISCHR(found.st_mode):
                continue
            flags = int(Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().split("flags:\t")[1].split()[0], 8)
            target = str(fd.readlink())
            if target.startswith("/root/.cloister/"):  # the agent's programs, on a mount that is read-only
                assert flags & os.O_ACCMODE == os.O_RDONLY, target
                continue
            assert not stat.S_ISDIR(found.st_mode), target
            assert flags & os.O_ACCMODE == os.O_RDONLY, target
        assert Path(f"/proc/{pid}/cwd").stat().st_dev not in hosts


def test_processes_of_a_sandbox_cannot_leave_its_control_group(box: Box) -> None:
    """All that is descended from them is counted and bounded; no control groups are mounted where they could move."""
    for name in ("memory", "pids"):
        directory = box.groups.get(name) or box.groups["unified"]
        members = {int(line) for line in (directory / "cgroup.procs").read_text().split()}
        assert {box.kernel, box.gofer} <= members
    assert " - cgroup" not in Path(f"/proc/{box.gofer}/mountinfo").read_text()


def test_sandbox_cannot_outlive_the_hosts_own_programs_when_memory_is_short(box: Box) -> None:
    """The host's kernel ends it before a program of the host."""
    for pid in (box.kernel, box.gofer):
        assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) >= 500


def test_attacker_cannot_take_over_a_client_of_the_hosts_root(box: Box) -> None:
    """The program that started the sandbox has ended: none with the host's root is left that talks to it."""
    notes = f"--root={box.run_dir}".encode()
    left = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            if any(word.startswith(notes) for word in words) and box.sandbox.sandbox_id.encode() in words and path.stat().st_uid == 0:
                left.append(words)
        except (FileNotFoundError, ProcessLookupError):
            continue
    assert not left
