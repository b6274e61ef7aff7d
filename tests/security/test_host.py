"""A sandbox against its host: processes, files, devices, kernel interfaces (I1, I2, I3)."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from e2b import SandboxException
from e2b_code_interpreter import Sandbox

from framework.attack_table import held_by
from framework.inside import cgroup_of, pids_of, python, shell
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

HOST_ROOT_PATHS = (
    "/proc/1/root",
    "/proc/self/root/../../..",
    "/proc/self/cwd/../../../..",
    "/.cloister/../..",
    "/.cloister/agent/../../..",
)


@held_by(namespace="pid namespace", gvisor="pids of gVisor's own")
def test_sandbox_cannot_see_or_signal_a_host_process(attacker: Sandbox, user: str) -> None:
    """No host process is listed, found by its number, or reached by a signal."""
    host = subprocess.Popen(["sleep", "98765"])
    try:
        seen = shell(attacker, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '", user=user)
        assert "98765" not in seen.text
        script = (
            f"kill -9 {host.pid} {host.pid + 1} -1 2>/dev/null; for p in $(seq 2 65535 | grep -x {host.pid}); do kill -9 $p; done; true"
        )
        shell(attacker, script.replace(" -1 ", " "), user=user)
        assert host.poll() is None
    finally:
        host.kill()
        host.wait()


def test_sandbox_cannot_kill_its_pid_1(attacker: Sandbox) -> None:
    """Root of the sandbox sends every signal to pid 1 and the sandbox lives on."""
    shell(attacker, "for n in $(seq 1 64); do kill -$n 1 2>/dev/null; done; true")
    assert python(attacker, "print(6 * 7)") == "42"


@held_by(namespace="mount namespace", gvisor="the gofer's root is the sandbox's")
def test_sandbox_cannot_read_a_host_file(attacker: Sandbox, user: str, tmp_path: Path) -> None:
    """A world-readable file of the host is at none of the places where a leaky root would show it."""
    marker = secrets.token_hex(16)
    target = Path(f"/tmp/{marker}")
    target.write_text(marker)
    target.chmod(0o644)
    try:
        paths = " ".join(f"{root}{target}" for root in ("", *HOST_ROOT_PATHS))
        assert marker not in shell(attacker, f"cat {paths} 2>/dev/null; true", user=user).text
        assert marker not in shell(attacker, "cat /proc/mounts /proc/self/mountinfo; find / -xdev -maxdepth 2 2>/dev/null", user=user).text
    finally:
        target.unlink()


@held_by(namespace="mount namespace", gvisor="the gofer's root is the sandbox's")
def test_sandbox_cannot_escape_by_chroot(attacker: Sandbox) -> None:
    """The classic double chroot of root ends at the sandbox's own root."""
    marker = Path(f"/tmp/{secrets.token_hex(8)}")
    marker.write_text("host")
    try:
        code = (
            "import os\nos.makedirs('/tmp/jail', exist_ok=True)\npid = os.fork()\nif pid == 0:\n"
            " fd = os.open('/', os.O_RDONLY)\n os.chroot('/tmp/jail')\n os.fchdir(fd)\n [os.chdir('..') for _ in range(64)]\n os.chroot('.')\n"
            f" os._exit(7 if os.path.exists({str(marker)!r}) else 0)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
        )
        assert python(attacker, code) == "0"
    finally:
        marker.unlink()


_SAME = 'v=$(cat {0}) && echo "$v" > {0}'
"""Writes what is there already, so that it changes nothing where it is allowed."""
_LIST_FIREWALL = """python3 -c "
import socket, struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
s.sendto(struct.pack('=IHHIIBBH', 20, 0xA01, 0x301, 1, 0, 0, 0, 0), (0, 0))
assert struct.unpack_from('=IH', s.recv(4096))[1] != 2, 'refused'
"
"""
PROBES = (
    "mount -t tmpfs none /mnt",
    "mount -t proc none /mnt",
    "mount --bind / /mnt",
    "umount -l /proc",
    "umount -l /dev",
    "mount -o remount,rw,bind /dev",
    "mount -o remount,rw,bind /.cloister/agent",
    "unshare --user --map-root-user true",
    "unshare --mount true",
    "unshare --pid --fork true",
    "unshare --net true",
    "nsenter --target 1 --mount true",
    "nsenter --target 1 --net true",
    "mknod /tmp/disk b 8 0",
    "mknod /tmp/mem c 1 1",
    "pivot_root /dev /dev/shm",
    _SAME.format("/proc/sys/kernel/sysrq"),
    _SAME.format("/proc/sys/kernel/core_pattern"),
    _SAME.format("/proc/sys/kernel/shm_rmid_forced"),
    _SAME.format("/proc/sys/user/max_user_namespaces"),
    "test $(cat /proc/sys/user/max_user_namespaces) != 0",
    "test ! -c /proc/sysrq-trigger && echo h > /proc/sysrq-trigger",
    "dmesg",
    "hostname changed",
    "ip link add probe0 type veth",
    "ip addr add 10.1.2.3/32 dev eth0",
    "ip link set eth0 down",
    "ip route replace default dev lo",
    _LIST_FIREWALL,
    "echo -1000 > /proc/self/oom_score_adj",
    "touch /.cloister/agent/x",
    "ls /sys/fs/cgroup/* | grep -q .",
    "cat /proc/1/environ",
    "readlink /proc/1/exe",
    "ls /proc/1/fd",
    "ls /proc/1/root/",
)
_CAP_SYS_RESOURCE = 24
_ELSEWHERE = """
mount -t tmpfs none /tmp && mount -t tmpfs none /mnt && mkdir /mnt/agent && mount --bind /mnt/agent /mnt/agent
ip link set lo up && ip link add eth0 type veth peer name eth1
"""


@pytest.mark.parametrize("script", PROBES)
def test_sandbox_root_cannot(attacker: Sandbox, script: str) -> None:
    """Operations that would affect the host or the isolation fail for root of the sandbox."""
    done = shell(attacker, f"PATH=$PATH:/usr/sbin:/sbin; {script}")
    assert done.status != 0, done.text
    assert "not found" not in done.text, "the template lacks a program of the probe, which proves nothing"


@pytest.mark.parametrize("script", PROBES)
def test_what_root_of_a_sandbox_cannot_works_elsewhere(script: str) -> None:
    """Each probe succeeds for root of the host in new namespaces. So the sandbox refuses it, not a mistake in the probe."""
    _skip_where_the_host_has_no_such_power(script)
    outside = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--mount-proc", "--propagation", "private", "bash", "-c"]
    moved = script.replace("/.cloister/agent", "/mnt/agent")
    done = subprocess.run([*outside, f"set -e; {_ELSEWHERE}\n{moved}\n:"], check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def _skip_where_the_host_has_no_such_power(script: str) -> None:
    powers = int(re.findall(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())[0], 16)
    if ("oom_score_adj" in script or "> /proc/sys/user" in script) and not powers >> _CAP_SYS_RESOURCE & 1:
        pytest.skip("this machine cannot show it: its root has no CAP_SYS_RESOURCE")
    if "sysrq-trigger" in script and not Path("/proc/sysrq-trigger").exists():
        pytest.skip("this machine cannot show it: its kernel has no /proc/sysrq-trigger")


def test_sandbox_root_cannot_change_its_control_group(attacker: Sandbox) -> None:
    """The visible files of the control group, of either version, cannot be written, not even with their own content."""
    names = ("memory/memory.limit_in_bytes", "pids/cgroup.procs", "memory.max", "cgroup.procs")
    shown = shell(attacker, f"cd /.cloister/cgroup && ls {' '.join(names)} 2>/dev/null; true").text.split()
    assert len(shown) == 2
    for name in shown:
        done = shell(attacker, f"cd /.cloister/cgroup && v=$(head -1 {name}) && echo $v > {name}")
        assert "Read-only file system" in done.text
    limit = next(path for name in names if (path := cgroup_of(attacker) / Path(name).name).exists())
    limit.write_text(limit.read_text())  # who may, can


def test_sandbox_cannot_find_a_device_of_the_host(attacker: Sandbox) -> None:
    """The only device nodes are the six of /dev, with their usual numbers, and terminals. All others are masks."""
    script = "find / -path /proc -prune -o '(' -type b -o -type c ')' -printf '%p ' -exec stat -c '%t:%T' '{}' ';' 2>/dev/null; true"
    found = dict(line.split() for line in shell(attacker, script).text.splitlines())
    six = {"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0"}
    assert {path: number for path, number in found.items() if not path.startswith("/dev/pts/")} == {
        f"/dev/{name}": number for name, number in six.items()
    }
    assert {f"{os.major(number):x}:{os.minor(number):x}" for number in (Path("/dev", name).stat().st_rdev for name in six)} == set(six.values())


def test_sandbox_processes_have_no_power_over_the_host(server: Server, attacker: Sandbox) -> None:
    """From the host: every process of the sandbox has an unprivileged user, its own namespaces, a filter and few capabilities."""
    pids = pids_of(attacker)
    assert pids
    for pid in pids:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        assert all(int(uid) >= 0x10000000 for uid in status["Uid"].split()), status["Uid"]
        assert status["Seccomp"] == "2"
        for caps in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"):
            assert int(status[caps], 16) & ~0x00000000A00405FB == 0, caps
        for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
            assert Path(f"/proc/{pid}/ns/{kind}").readlink() != Path(f"/proc/self/ns/{kind}").readlink(), kind


def test_sandbox_cannot_have_a_process_outside_its_control_group(attacker: Sandbox) -> None:
    """From the host: each process of the sandbox's pid namespace is in its control group, in every hierarchy, those of several languages too."""
    for language, code in (("python", "import os; os.system('sleep 300 &')"), ("bash", "sleep 300 &"), ("javascript", "1")):
        attacker.run_code(code, language=language)
    counted = pids_of(attacker)
    assert counted
    space = Path(f"/proc/{counted[0]}/ns/pid").readlink()
    inside = set()
    for entry in Path("/proc").glob("[0-9]*/ns/pid"):
        with contextlib.suppress(OSError):
            if entry.readlink() == space:
                inside.add(int(entry.parts[2]))
    assert len(inside) >= 7  # pid 1, the agent, three kernels, two commands
    for controller in ("memory", "cpu", "pids", "freezer", "cpuacct"):
        assert inside <= {int(pid) for pid in (cgroup_of(attacker, controller) / "cgroup.procs").read_text().split()}, controller


@held_by(namespace="RLIMIT_CORE", gvisor="RLIMIT_CORE")
def test_processes_leave_no_core_dumps(attacker: Sandbox) -> None:
    """The hard limit is zero, so no crash writes memory to the disk or to the host's core handler."""
    assert python(attacker, "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))") == "(0, 0)"


def test_pid_1_holds_no_descriptor_of_the_host(attacker: Sandbox) -> None:
    """From the host: pid 1 of the sandbox has its log, the init document, two sockets of the sandbox, pipes, and nothing else."""
    pids = pids_of(attacker)
    first = next(pid for pid in pids if Path(f"/proc/{pid}/status").read_text().split("NSpid:")[1].splitlines()[0].split()[-1] == "1")
    targets = [str(path.readlink()) for path in Path(f"/proc/{first}/fd").iterdir()]
    kinds = sorted(target.split(":")[0] for target in targets)
    assert kinds == ["/memfd", "/var/log/cloister-agent.log", "pipe", "pipe", "pipe", "socket", "socket"], targets


@held_by(namespace="files of its own in /proc", gvisor="gVisor's kernel knows its size alone")
def test_sandbox_sees_its_own_limits(attacker: Sandbox) -> None:
    """Memory, processors and disk are those of the sandbox, not of the host."""
    meminfo = shell(attacker, "grep MemTotal /proc/meminfo").text
    assert int(meminfo.split()[1]) == 2048 * 1024
    assert int(shell(attacker, "nproc").text) <= 2
    assert int(shell(attacker, "df --output=size -m / | tail -1").text) <= 5120
    assert float(shell(attacker, "cut -d' ' -f1 /proc/uptime").text) < 600


def test_limits_of_the_kernel_are_those_of_the_record(server: Server, attacker: Sandbox) -> None:
    """From the host: the control group of the sandbox has the limits that clients are told."""
    groups = {controller: cgroup_of(attacker, controller) for controller in ("memory", "pids", "cpu")}
    if (groups["memory"] / "memory.limit_in_bytes").exists():
        values = [
            (groups[c] / name).read_text().strip()
            for c, name in (("memory", "memory.limit_in_bytes"), ("pids", "pids.max"), ("cpu", "cpu.cfs_quota_us"))
        ]
        assert values == [str(2048 << 20), "512", "200000"]
    else:
        values = [(groups["memory"] / name).read_text().strip() for name in ("memory.max", "pids.max", "cpu.max")]
        assert values == [str(2048 << 20), "512", "200000 100000"]


def test_two_sandboxes_have_different_host_ids(server: Server, attacker: Sandbox, neighbour: Sandbox) -> None:
    """Each sandbox has a range of host ids of its own, so one's files and processes mean nothing in the other."""
    ranges = {Path(f"/proc/{pids_of(sandbox)[0]}/uid_map").read_text().split()[1] for sandbox in (attacker, neighbour)}
    assert len(ranges) == 2


@held_by(namespace="pid 1 starts it again", gvisor="pid 1 starts it again")
def test_agent_killed_from_inside_comes_back(attacker: Sandbox) -> None:
    """Root of the sandbox kills everything that it can, and the sandbox answers again."""
    with contextlib.suppress(SandboxException, httpx.HTTPError):
        attacker.run_code("import os, signal\nos.kill(-1, signal.SIGKILL)", timeout=20)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(SandboxException, httpx.HTTPError):
            assert python(attacker, "print(1 + 1)", timeout=10) == "2"
            return
        time.sleep(0.25)
    pytest.fail("the sandbox did not answer again")
