"""Attacks by identities, capabilities, signals and priorities."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import pty
import resource
import shutil
import struct
import subprocess
from functools import partial
from pathlib import Path

from .base import Family, call, did, fail, libc

__all__ = ["FAMILY"]

FAMILY = Family("no such capability", "no such capability")

_CAP_NAMES = {
    "CAP_DAC_READ_SEARCH": 2, "CAP_LINUX_IMMUTABLE": 9, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_IPC_LOCK": 14, "CAP_SYS_MODULE": 16,
    "CAP_SYS_RAWIO": 17, "CAP_SYS_PTRACE": 19, "CAP_SYS_PACCT": 20, "CAP_SYS_ADMIN": 21, "CAP_SYS_BOOT": 22, "CAP_SYS_NICE": 23,
    "CAP_SYS_RESOURCE": 24, "CAP_SYS_TIME": 25, "CAP_SYS_TTY_CONFIG": 26, "CAP_MKNOD": 27, "CAP_AUDIT_CONTROL": 30, "CAP_MAC_OVERRIDE": 32,
    "CAP_MAC_ADMIN": 33, "CAP_SYSLOG": 34, "CAP_PERFMON": 38, "CAP_BPF": 39, "CAP_CHECKPOINT_RESTORE": 40,
}  # fmt: skip


def _take(number: int) -> str | None:
    """Done if the capability is there afterwards: gVisor leaves CAP_NET_RAW out without an error."""
    header = struct.pack("Ii", 0x20080522, 0)
    mask = 1 << number
    low, high = mask & 0xFFFFFFFF, mask >> 32
    call(126, header, struct.pack("6I", low, low, 0, high, high, 0))
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return effective if int(effective.split()[1], 16) & mask else None


for _name, _number in _CAP_NAMES.items():
    FAMILY.add(f"take {_name}", partial(_take, _number), held="not in the bounding set")


def _raise_ambient() -> str | None:
    libc.prctl(47, 2, 21, 0, 0)
    return "raised" if libc.prctl(47, 1, 21, 0, 0) == 1 else None


FAMILY.add("raise an ambient capability", _raise_ambient, "EINVAL")


@FAMILY.attack("get a capability by a program's file", "EINVAL", "ENOTSUP", held="not in the bounding set")
def _() -> str | None:
    program = Path(f"/tmp/program-{os.getpid()}")
    shutil.copy("/bin/cat", program)
    program.chmod(0o755)
    os.setxattr(program, "security.capability", struct.pack("<5I", 0x02000001, 1 << 21, 0, 0, 0))
    done = subprocess.run([str(program), "/proc/self/status"], capture_output=True, text=True, check=False)
    effective = next((int(line.split()[1], 16) for line in done.stdout.splitlines() if line.startswith("CapEff")), 0)
    return "CAP_SYS_ADMIN" if effective >> 21 & 1 else None


@FAMILY.attack("get the host's root by a setuid program", namespace="ids of its user namespace", gvisor="ids of gVisor's own")
def _() -> str | None:
    """Root is that of the sandbox: it still cannot do what only the host's root can."""
    program = Path(f"/tmp/setuid-{os.getpid()}")
    shutil.copy(shutil.which("mount") or "/bin/mount", program)
    program.chmod(0o4755)
    done = subprocess.run([str(program), "-t", "tmpfs", "none", "/mnt"], capture_output=True, user=1000, check=False)
    return "mounted" if done.returncode == 0 else None


@FAMILY.attack("get the host's root by sudo", namespace="ids of its user namespace", gvisor="ids of gVisor's own")
def _() -> str | None:
    done = subprocess.run(["su", "user", "-c", "sudo -n mount -t tmpfs none /mnt"], capture_output=True, check=False)
    return "mounted" if done.returncode == 0 else None


@FAMILY.attack("use the shared id of the host's nobody", namespace="ids of its user namespace", gvisor="ids of gVisor's own")
def _() -> str | None:
    """Id 65534 inside is no id of the host: no process outside can be signalled by it."""
    os.setresuid(65534, 65534, 65534)
    before = {name for name in os.listdir("/proc") if name.isdigit()}
    reached = [number for number in range(2, 3000) if str(number) not in before and in_reach(number)]
    return f"reached {reached}" if reached else None


def in_reach(pid: int) -> bool:
    """Whether a process that is not listed can be asked for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return Path(f"/proc/{pid}").exists() is False
    return Path(f"/proc/{pid}").exists() is False


@FAMILY.attack("signal a process that it does not see", namespace="pid namespace", gvisor="pids of gVisor's own")
def _() -> str | None:
    hidden = [number for number in range(2, 70_000) if in_reach(number) and not Path(f"/proc/{number}/status").exists()]
    return f"reached {hidden[:5]}" if hidden else None


@FAMILY.attack("have the number of a process taken for another (pid reuse)", namespace="pidfd", gvisor="pidfd of gVisor's own")
def _() -> str | None:
    """A descriptor of a process that has ended reaches none that got its number."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    descriptor = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    try:
        call(424, descriptor, 0, None, 0)
    except ProcessLookupError:
        return None
    return "reached"


for _name, _policy in (("first in, first out", 1), ("round robin", 2)):
    FAMILY.add(
        f"run in real time ({_name})",
        partial(did, os.sched_setscheduler, 0, _policy, os.sched_param(50)),
        "EINVAL",
        namespace="no CAP_SYS_NICE",
        gvisor="gVisor's kernel schedules by itself",
    )
FAMILY.add(
    "run by a deadline",
    partial(call, 314, 0, struct.pack("IIQiIQQQ", 48, 6, 0, 0, 0, 10**7, 10**8, 10**8), 0),
    "EINVAL",
    gvisor="gVisor's kernel does not have it",
)
FAMILY.add("have its disk access first", partial(call, 251, 1, 0, 1 << 13), "EINVAL", gvisor="gVisor's kernel does not have it")


def _raise_limit(kind: int) -> str:
    try:
        resource.setrlimit(kind, (1 << 30, 1 << 30))
    except ValueError:
        fail(errno.EPERM)
    return "raised"


for _name, _kind in (("open files", resource.RLIMIT_NOFILE), ("core files", resource.RLIMIT_CORE)):
    FAMILY.add(
        f"raise its limit of {_name}",
        partial(_raise_limit, _kind),
        "EINVAL",
        held="no CAP_SYS_RESOURCE",
    )


def _terminal(request: int, argument: int | bytes) -> str:
    ours, theirs = pty.openpty()
    os.setsid()
    fcntl.ioctl(theirs, 0x540E, 0)
    fcntl.ioctl(theirs, request, argument)
    return f"done on {ours}"


for _name, _request, _argument in (("type into a terminal", 0x5412, b"x"), ("load a line discipline", 0x5423, struct.pack("i", 15)),
                                   ("take the console", 0x541D, 0), ("use the console's own requests", 0x541C, b"\x02")):  # fmt: skip
    FAMILY.add(
        _name,
        partial(_terminal, _request, _argument),
        *("ENOTTY", "EIO", "EINVAL"),
        namespace="seccomp",
        gvisor="gVisor's terminals do not have it",
    )


def _lock_memory() -> str | None:
    size = 64 << 20
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, ctypes.c_size_t(size), 3, 0x22, -1, 0)
    call(149, ctypes.c_void_p(address), size)
    held = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmLck"))
    return f"{held} kB" if held >= size >> 10 else None


FAMILY.add(
    "have its memory held in place without bound",
    _lock_memory,
    "ENOMEM",
    "EAGAIN",
    namespace="RLIMIT_MEMLOCK; the control group",
    gvisor="the control group",
)
