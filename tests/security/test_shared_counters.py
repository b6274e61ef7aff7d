"""Limits that the kernel counts for a user or the whole host. A sandbox that takes its maximum leaves the others theirs (I6).

The table of what is counted where is in docs/threat-model-clients.md. Root of the sandbox attacks, as several users of it one after the other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
from pathlib import Path

import httpx
import pytest
from e2b import SandboxException
from e2b_code_interpreter import Sandbox

from cloister.linux.kernelmemory import is_socket_memory_short, lock_owners
from cloister.node.kernelguard import MAX_LOCKS
from framework import counted
from framework.attack_table import held_by
from framework.inside import cgroup_of, pids_of, python, reason_of_end, shell
from framework.server import Server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]

NS_GET_PARENT, NS_GET_OWNER_UID = 0xB702, 0xB704
SLACK = 24
"""How much of the host's own may come and go while a test runs, by other work on the host."""


@pytest.mark.parametrize(
    ("what", "most"),
    [
        pytest.param(counted.SIGNALS, 4096, id="pending_signals"),
        pytest.param(counted.TIMERS, 4096, id="timers"),
        pytest.param(counted.QUEUES, 9, id="message_queues"),
        pytest.param(counted.INOTIFY, 32, id="inotify_instances"),
        pytest.param(counted.WATCHES, 16_384, id="inotify_watches"),
        pytest.param(counted.TERMINALS, 64, id="terminals"),
    ],
)
def test_sandbox_cannot_use_up(attacker: Sandbox, neighbour: Sandbox, what: str, most: int) -> None:
    """All users of a sandbox together get what one sandbox may have; a neighbour gets as much, and the host has what it had."""
    of_host = counted.count_here(what, 20_000)
    with counted.held(attacker, what) as taken:
        assert 0 < taken <= most
        assert abs(counted.count_inside(neighbour, what) - taken) <= 2
        assert counted.count_here(what, 20_000) > of_host - SLACK - (most if what is counted.TERMINALS else 0)


def test_sandbox_cannot_be_counted_for_a_user_of_the_host(attacker: Sandbox, neighbour: Sandbox) -> None:
    """From the host: a sandbox's user namespace is made by its own root and the zone's by the zone's root, so the kernel counts for these."""
    owners = set()
    for sandbox in (attacker, neighbour):
        pid = pids_of(sandbox)[0]
        with Path(f"/proc/{pid}/ns/user").open() as own, os.fdopen(fcntl.ioctl(own, NS_GET_PARENT)) as zone:
            root = int(Path(f"/proc/{pid}/uid_map").read_text().split()[1])
            assert owner_of(own.fileno()) == root
            assert 0x10000000 <= owner_of(zone.fileno()) < root
            owners.add(root)
    assert len(owners) == 2


def owner_of(namespace: int) -> int:
    """The host uid that made a user namespace. Source: ioctl_ns(2)."""
    return int.from_bytes(fcntl.ioctl(namespace, NS_GET_OWNER_UID, bytes(4)), "little")


def test_sandbox_cannot_take_contexts_of_asynchronous_io(attacker: Sandbox) -> None:
    """Their number is one for the whole host, so a sandbox gets none, and is told that the kernel has no such call."""
    before = Path("/proc/sys/fs/aio-nr").read_text()
    code = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); print(libc.syscall(206, 1, ctypes.byref(ctypes.c_ulong())), ctypes.get_errno())"
    assert python(attacker, code) == "-1 38"
    assert Path("/proc/sys/fs/aio-nr").read_text() == before


@held_by(namespace="no CAP_SYS_RESOURCE", gvisor="no CAP_SYS_RESOURCE")
def test_root_of_a_sandbox_cannot_raise_its_limits(attacker: Sandbox) -> None:
    """A forked kernel and a program that is started have the same bounds, and setrlimit takes them down only."""
    read = "import resource; print(*[resource.prlimit(0, kind) for kind in (11, 12)])"
    forked = python(attacker, read)
    assert "-1" not in forked
    assert attacker.commands.run(f"python3 -c '{read}'", user="root").stdout.strip() == forked
    raised = "import resource\nfor kind in (7, 11, 12): resource.prlimit(0, kind, (1 << 40, 1 << 40))"
    assert "ermission" in shell(attacker, f"python3 -c '{raised}'").text


@pytest.mark.parametrize("option", [26, 50, 51, 52])
def test_sandbox_cannot_compile_filters_for_sockets(attacker: Sandbox, option: int) -> None:
    """Compiled filters share one bound of the whole host, so a sandbox attaches none to its sockets, as root neither."""
    code = f"""
import ctypes, socket, struct
program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 65535))
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_NETLINK):
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, {option}, struct.pack("HxxxxxxQ", 1, ctypes.addressof(program)))
        print("attached")
    except OSError as error:
        print(error.errno)
"""
    assert attacker.commands.run(f"python3 -c {shlex.quote(code)}", user="root").stdout.split() == ["92", "92", "92"]


def test_sandboxes_together_cannot_take_every_process_number(attacker: Sandbox) -> None:
    """From the host: the group above those of all servers leaves the host an eighth of what the kernel has."""
    most = min(int(Path("/proc/sys/kernel", name).read_text()) for name in ("pid_max", "threads-max"))
    assert int((cgroup_of(attacker, "pids").parent.parent / "pids.max").read_text()) == most - most // 8


@pytest.mark.alone
def test_sandbox_cannot_take_memory_by_datagrams(attacker: Sandbox) -> None:
    """Datagrams that no program reads stay within the sandbox's bound: an eighth of its memory on v1, its memory on v2."""
    before = udp_bytes()
    group = cgroup_of(attacker)
    bound = 256 << 20 if (group / "memory.limit_in_bytes").exists() else 2048 << 20
    with counted.held(attacker, counted.DATAGRAMS, 1024) as mib:
        assert mib == 1024  # sent, which is not kept
        assert 16 << 20 < udp_bytes() - before < bound + (64 << 20)


def udp_bytes() -> int:
    """Memory of the whole host in datagrams that wait to be read. Source: /proc/net/sockstat, in pages."""
    line = next(line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("UDP:"))
    return int(line.split()[-1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.alone
@pytest.mark.parametrize(
    "what", [counted.LOCKS, counted.ORPHANED_LOCKS, counted.STREAMS], ids=["file_locks", "orphaned_locks", "connections_not_accepted"]
)
def test_sandbox_cannot_take_kernel_memory(server: Server, attacker: Sandbox, neighbour: Sandbox, what: str) -> None:
    """A sandbox that takes too much uncharged memory is stopped and told the reason. The host then has enough again."""
    pressure = int(Path("/proc/sys/net/ipv4/tcp_mem").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    buffer = 2 * int(Path("/proc/sys/net/core/rmem_max").read_text())
    most = {counted.LOCKS: 40_000, counted.ORPHANED_LOCKS: 40, counted.STREAMS: pressure * 5 // 2 // buffer}[what]
    began = len(server.log.read_text())
    with contextlib.suppress(SandboxException, httpx.HTTPError, StopIteration), counted.held(attacker, what, most):
        eventually(lambda: not attacker.is_running(), 60)
    stopped = eventually(lambda: re.findall(r'"reason": "kernel_memory"', server.log.read_text()[began:]))
    assert stopped
    assert reason_of_end(server, attacker).endswith("took the kernel's memory")
    assert python(neighbour, "print(6 * 7)") == "42"
    eventually(lambda: not is_socket_memory_short())
    eventually(lambda: lock_owners(40_000).total() < MAX_LOCKS)


@pytest.mark.parametrize("command", [36, 37, 38])
def test_sandbox_cannot_hold_locks_without_an_owner(attacker: Sandbox, command: int) -> None:
    """Locks of open files do not tell whose they are, so they are refused as by a kernel that lacks them."""
    code = f"""
import fcntl, struct, tempfile
try:
    fcntl.fcntl(tempfile.TemporaryFile(), {command}, struct.pack("hhqqi", fcntl.F_RDLCK, 0, 0, 0, 0))
    print("held")
except OSError as error:
    print(error.errno)
"""
    assert python(attacker, code) == "22"
