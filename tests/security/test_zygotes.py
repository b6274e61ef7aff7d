"""A sandbox that was forked from a zygote cannot reach it, keep anything of it, or do more than one that was started anew.

Every other test of this directory attacks forked processes too, because it runs with both kinds of start.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from e2b import SandboxException
from e2b_code_interpreter import Sandbox

from framework.inside import python, shell
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.parametrize("server_tier", ["forked"], indirect=True)]

ZONE_CAPS = {"agent": 0x00000000A00405FB | 1 << 21, "kernel": 1 << 1 | 1 << 21}
"""An agent's: a sandbox's and CAP_SYS_ADMIN. A kernel's: CAP_DAC_OVERRIDE and CAP_SYS_ADMIN."""
TEMPLATE_UID = 65533
"""Of a kernel zygote, in its zone."""


def zygotes(server: Server) -> dict[str, int]:
    """The zygotes of the server's zones, from the host: kind to pid. With several zones, those of the one that started last."""
    found = {}
    for directory in sorted(Path("/sys/fs/cgroup").glob("pids/cloister/*/zone-*-*")) or sorted(
        Path("/sys/fs/cgroup").glob("cloister/*/zone-*-*")
    ):
        with contextlib.suppress(FileNotFoundError):  # another server's, which ends
            for pid in (directory / "cgroup.procs").read_text().split():
                if descends_from(int(pid), server.child("node")):
                    found[directory.name.rpartition("-")[2]] = int(pid)
    return found


def descends_from(pid: int, supervisor: int) -> bool:
    """Whether the supervisor holds a pidfd of the process."""
    for entry in Path(f"/proc/{supervisor}/fdinfo").iterdir():
        try:
            if f"\nPid:\t{pid}\n" in entry.read_text():
                return True
        except FileNotFoundError:
            continue
    return False


def parent_of(pid: int) -> int:
    """Of a zygote: the slot maker of its zone."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def in_namespace_of(pid: int, other: int, name: str) -> bool:
    """Whether two processes have the same namespace of that kind."""
    return Path(f"/proc/{pid}/ns/{name}").readlink() == Path(f"/proc/{other}/ns/{name}").readlink()


def kernel_status(sandbox: Sandbox) -> dict[str, str]:
    """``/proc/self/status`` of the default Python kernel."""
    text = python(sandbox, "print(open('/proc/self/status').read())")
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_forked_kernel_has_the_power_of_a_started_one(attacker: Sandbox) -> None:
    """Capabilities, filter, session and parent are those of a kernel that the agent starts by exec."""
    forked = kernel_status(attacker)
    context = attacker.create_code_context(language="python")
    text = "".join(attacker.run_code("print(open('/proc/self/status').read())", context=context).logs.stdout)
    started = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    for field in (
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Umask",
        "SigIgn",
        "SigBlk",
    ):
        assert forked[field] == started[field], field


def test_forked_processes_keep_no_descriptor_of_the_zygote(attacker: Sandbox) -> None:
    """The kernel has its standard streams with copies of two, and its protocol socket, the agent nothing that leads out of the sandbox."""
    listed = python(attacker, "import os, json; print(json.dumps([os.readlink(e) for e in os.scandir('/proc/self/fd') if os.path.lexists(e)]))")
    open_there = [name for name in json.loads(listed) if not name.endswith("/fd")]  # but the directory that is being read
    assert sorted(name.split(":")[0] for name in set(open_there)) == ["/dev/null", "pipe", "pipe", "socket"], listed
    assert len(open_there) == 6, listed
    found = shell(
        attacker, "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -E 'ns/|pid:|/sys/|tasks|cgroup|memfd:(seccomp|cloister)' || echo none"
    ).text
    assert "none" in found, found


def test_forked_processes_share_no_memory_that_can_be_written(attacker: Sandbox) -> None:
    """No sandbox sees memory that another one writes, because every writable mapping is private."""
    maps = python(attacker, "print(open('/proc/self/maps').read())")
    shared = [line for line in maps.splitlines() if len(line.split()[1]) == 4 and line.split()[1][1] == "w" and line.split()[1][3] == "s"]
    assert not shared


def test_forked_processes_tell_no_path_of_the_host(attacker: Sandbox) -> None:
    """Their mappings name files of the sandbox's own tree, or files in memory."""
    maps = python(attacker, "print(open('/proc/self/maps').read())")
    paths = {line.split(None, 5)[5] for line in maps.splitlines() if len(line.split(None, 5)) == 6}
    assert all(path.startswith(("/usr/", "/.cloister/", "/memfd:cloister join", "[", "/lib", "/bin", "/opt")) for path in paths), paths


@pytest.mark.parametrize("what", ["mnt", "user", "pid", "net"])
def test_forked_processes_cannot_enter_a_namespace_again(attacker: Sandbox, what: str) -> None:
    """The call that brought them in is refused to them, though the zygote's filter, which they have too, allows it."""
    code = (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"fd = os.open('/proc/self/ns/{what}', os.O_RDONLY)\nprint(libc.syscall(308, fd, 0), ctypes.get_errno())"
    )
    assert python(attacker, code) == "-1 1"


def test_sandbox_cannot_see_or_signal_the_zygote(server: Server, attacker: Sandbox) -> None:
    """The zygote has no number in the sandbox, and killing everything there is leaves it alone."""
    before = zygotes(server)
    assert set(before) == {"agent", "kernel"}
    seen = shell(attacker, "ps axo pid,ppid,args").text
    assert all(line.split()[1] in {"0", "1"} or int(line.split()[1]) > 1 for line in seen.splitlines()[1:])
    with contextlib.suppress(SandboxException, httpx.HTTPError):
        attacker.run_code("import os, signal\nos.kill(-1, signal.SIGKILL)", timeout=20)
    assert zygotes(server) == before


def test_sandbox_that_uses_all_its_processes_cannot_exhaust_the_zygote(server: Server, attacker: Sandbox, neighbour: Sandbox) -> None:
    """The forked processes count for the sandbox, so its limit is its own and other sandboxes are still forked."""
    assert python(neighbour, "print(1)") == "1"
    code = """
import os, time
count = 0
try:
    while count < 2000:
        count += 1
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
except BlockingIOError:
    print("refused", count)
"""
    assert "refused" in python(attacker, code)
    another = Sandbox.create(timeout=60, **server.sdk)
    assert python(another, "print(2)") == "2"
    another.kill()


def test_zygote_is_confined(server: Server, attacker: Sandbox) -> None:
    """From the host: no power there, no network, a filter, a read-only tree, and its own namespaces."""
    assert python(attacker, "print(1)") == "1"
    found = zygotes(server)
    assert found.keys() == {"agent", "kernel"}
    for kind, pid in found.items():
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        assert all(int(uid) >= 0x10000000 for uid in status["Uid"].split()), kind
        assert status["Seccomp"] == "2"
        for sort in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"):
            assert int(status[sort], 16) & ~ZONE_CAPS[kind] == 0, (kind, sort)
        root = Path(f"/proc/{parent_of(pid)}").stat().st_uid
        assert set(status["Uid"].split()) == {str(root if kind == "agent" else root + TEMPLATE_UID)}, kind
        for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
            assert Path(f"/proc/{pid}/ns/{name}").readlink() != Path(f"/proc/self/ns/{name}").readlink(), name
        for name in ("mnt", "net", "ipc", "uts", "cgroup"):
            users = [other for other in (*found.values(), parent_of(pid)) if in_namespace_of(other, pid, name)]
            assert users == [pid], name
        links = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in links] == ["lo"]
        mounts = {line.split()[1]: line.split()[3].split(",") for line in Path(f"/proc/{pid}/mounts").read_text().splitlines()}
        assert "ro" in mounts["/"]


def test_hostile_template_cannot_hold_creations_up(server: Server, attacker: Sandbox) -> None:
    """A zygote that does not answer any more is killed, sandboxes start cold meanwhile, and another zygote takes its place."""
    stopped = zygotes(server)["kernel"]
    os.kill(stopped, signal.SIGSTOP)
    made = []
    try:
        deadline = time.monotonic() + 60
        while '"zygote.missed"' not in server.log.read_text() and time.monotonic() < deadline:
            sandbox = Sandbox.create(timeout=60, **server.sdk)
            assert python(sandbox, "print(1 + 1)") == "2"
            made.append(sandbox)
        assert '"zygote.missed"' in server.log.read_text()
    finally:
        for sandbox in made:
            sandbox.kill()
    deadline = time.monotonic() + 60
    while zygotes(server).get("kernel", stopped) == stopped:
        assert time.monotonic() < deadline, "no other zygote came"
        Sandbox.create(timeout=60, **server.sdk).kill()
        time.sleep(0.5)


def test_death_of_the_zygotes_is_nothing_to_clients(server: Server, attacker: Sandbox) -> None:
    """Forked sandboxes live on, new ones are made at once, and other zygotes take the places."""
    before = zygotes(server)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    sandboxes = [Sandbox.create(timeout=60, **server.sdk) for _ in range(6)]
    for sandbox in (attacker, *sandboxes):
        assert python(sandbox, "print(6 * 7)") == "42"
    for sandbox in sandboxes:
        sandbox.kill()
    deadline = time.monotonic() + 60
    while set(after := zygotes(server)) != set(before) or set(after.values()) & set(before.values()):
        assert time.monotonic() < deadline, f"no other zygotes came: {after}"
        Sandbox.create(timeout=60, **server.sdk).kill()
        time.sleep(0.5)


def test_cold_starts_are_told_in_the_servers_metrics(server: Server, attacker: Sandbox) -> None:
    """An operator sees that zygotes are ready, and how many sandboxes had to do without."""
    key = server.cli("key", "create", "--metrics", "test").stdout.strip()
    text = httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {key}"}).text
    values = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if not line.startswith("#")}
    assert values['cloister_zygotes{kind="agent"}'] >= 1
    told = server.log.read_text()
    assert values['cloister_creations_total{start="cold"}'] == told.count('"cold": ["')
