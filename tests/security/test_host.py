"""A sandbox against its host: processes, files, devices, kernel interfaces (I1, I2, I3)."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from e2b import SandboxException
from e2b_code_interpreter import Sandbox

from framework.inside import python, shell
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

HOST_ROOT_PATHS = (
    "/proc/1/root",
    "/proc/self/root/../../..",
    "/proc/self/cwd/../../../..",
    "/.cloister/../..",
    "/.cloister/agent/../../..",
)


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


@pytest.mark.parametrize(
    "script",
    [
        "mount -t tmpfs none /mnt",
        "mount -t proc none /mnt",
        "mount --bind / /mnt",
        "umount /proc",
        "umount -l /dev",
        "mount -o remount,rw,bind /dev",
        "mount -o remount,rw,bind /.cloister/agent",
        "unshare --user --map-root-user true",
        "unshare --mount true",
        "unshare --pid --fork true",
        "unshare --net true",
        "nsenter --target 1 --mount true",
        "nsenter --target 1 --net true",
        "mknod /tmp/sda b 8 0",
        "mknod /tmp/mem c 1 1",
        "pivot_root / /mnt",
        "echo 1 > /proc/sys/kernel/sysrq",
        "echo /tmp/x > /proc/sys/kernel/core_pattern",
        "echo b > /proc/sysrq-trigger && test ! -c /proc/sysrq-trigger",
        "dmesg",
        "swapon /dev/zero",
        "date -s 2001-01-01",
        "hostname changed",
        "ip link add dummy0 type dummy",
        "ip addr add 10.1.2.3/32 dev eth0",
        "ip link set eth0 down",
        "ip route replace default dev lo",
        "nft list ruleset",
        "echo -1000 > /proc/self/oom_score_adj",
        "touch /.cloister/agent/x",
        "echo 1 > /.cloister/cgroup/memory/memory.limit_in_bytes",
        "test -e /.cloister/cgroup/memory.max && echo max > /.cloister/cgroup/memory.max",
        "head -c1 /dev/mem",
        "head -c1 /dev/sda",
        "ls /sys/fs/cgroup/memory",
        "cat /proc/1/environ",
        "readlink /proc/1/exe",
        "ls /proc/1/fd",
        "ls /proc/1/root/",
        "grep -q . /proc/kallsyms",
        "grep -q . /proc/keys",
        "grep -q . /proc/cmdline",
        "echo 1 > /proc/sys/kernel/shm_rmid_forced",
        "echo 5 > /proc/sys/user/max_user_namespaces",
        "test $(cat /proc/sys/user/max_user_namespaces) != 0",
        "ls -d /proc/acpi/* /proc/irq/* /proc/bus/* /proc/scsi/* 2>/dev/null | grep -q .",
    ],
)
def test_sandbox_root_cannot(attacker: Sandbox, script: str) -> None:
    """What would touch the host or undo the isolation fails for root of the sandbox."""
    done = shell(attacker, f"PATH=$PATH:/usr/sbin:/sbin; {script}")
    assert done.status != 0, done.text


SYSCALLS = {
    "keyctl": 250,
    "add_key": 248,
    "request_key": 249,
    "bpf": 321,
    "perf_event_open": 298,
    "userfaultfd": 323,
    "io_uring_setup": 425,
    "kexec_load": 246,
    "init_module": 175,
    "finit_module": 313,
    "open_by_handle_at": 304,
    "setns": 308,
    "mount": 165,
    "fsopen": 430,
    "open_tree": 428,
    "move_mount": 429,
    "reboot": 169,
    "iopl": 172,
    "clone3": 435,
}


@pytest.mark.parametrize("name", SYSCALLS)
def test_sandbox_root_cannot_call(attacker: Sandbox, name: str) -> None:
    """A system call that no sandbox needs is refused before the kernel looks at its arguments."""
    code = (
        f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.syscall({SYSCALLS[name]}, 0, 0, 0, 0, 0), ctypes.get_errno())"
    )
    assert python(attacker, code) in ("-1 1", "-1 38")


def test_sandbox_processes_have_no_power_over_the_host(server: Server, attacker: Sandbox) -> None:
    """From the host: every process of the sandbox is an unprivileged user in namespaces of its own, filtered and with few capabilities."""
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


def cgroup_of(sandbox: Sandbox, controller: str = "memory") -> Path:
    """The sandbox's control group directory on the host."""
    root = Path("/sys/fs/cgroup")
    own = root / controller if (root / controller / "cgroup.procs").exists() else root
    (found,) = own.glob(f"cloister/*/{sandbox.sandbox_id}")
    return found


def pids_of(sandbox: Sandbox) -> list[int]:
    """The sandbox's processes, as the host numbers them."""
    return [int(pid) for pid in (cgroup_of(sandbox) / "cgroup.procs").read_text().split()]


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
