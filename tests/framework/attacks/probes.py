"""Looks for what lets a program out of a container: devices, sockets, files of the kernel, settings that can be written.

The kind of list that tools such as amicontained and deepce go through.
"""

from __future__ import annotations

import glob
import os
import stat
from functools import partial
from pathlib import Path

from .base import Family, call, did

__all__ = ["FAMILY"]

FAMILY = Family("masked", "gVisor's /proc and /sys do not have it")

_CAPABILITIES = 0xA00405FB


def _too_many(name: str) -> str | None:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    more = int(line.split()[1], 16) & ~_CAPABILITIES
    return hex(more) if more else None


for _name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
    FAMILY.add(
        f"have a capability too many ({_name})",
        partial(_too_many, _name),
        held="twelve capabilities",
    )

# Files by which a kernel tells of the host, or is told something.

_TELLING = (
    "/proc/kcore", "/proc/kallsyms", "/proc/kmsg", "/proc/keys", "/proc/key-users", "/proc/timer_list", "/proc/sched_debug",
    "/proc/vmallocinfo", "/proc/slabinfo", "/proc/iomem", "/proc/ioports", "/proc/modules", "/proc/config.gz", "/proc/kpagecount",
    "/proc/kpageflags", "/proc/mtrr", "/proc/interrupts", "/proc/softirqs", "/proc/schedstat", "/proc/partitions", "/proc/diskstats",
    "/proc/mdstat", "/proc/swaps", "/proc/locks", "/proc/zoneinfo", "/proc/buddyinfo", "/proc/pagetypeinfo", "/proc/crypto", "/proc/dma",
    "/proc/fb", "/proc/misc", "/proc/consoles", "/proc/execdomains", "/proc/latency_stats",
    "/sys/kernel/vmcoreinfo", "/sys/kernel/notes", "/sys/kernel/uevent_seqnum", "/sys/power/state", "/sys/hypervisor/uuid",
    "/sys/class/dmi/id/product_uuid", "/sys/class/dmi/id/board_serial", "/sys/devices/virtual/dmi/id/product_serial",
)  # fmt: skip
_DIRECTORIES = (
    "/proc/acpi", "/proc/asound", "/proc/bus", "/proc/driver", "/proc/fs", "/proc/irq", "/proc/scsi", "/proc/tty/driver",
    "/proc/dynamic_debug", "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security", "/sys/kernel/config", "/sys/firmware",
    "/sys/fs/bpf", "/sys/fs/pstore", "/sys/fs/selinux", "/sys/fs/ext4", "/sys/fs/btrfs", "/sys/module", "/sys/block",
    "/sys/bus/pci/devices",
    "/sys/class/block", "/sys/class/tpm", "/sys/class/hwmon", "/sys/class/thermal", "/sys/dev/block",
)  # fmt: skip


def _content(path: str) -> str | None:
    """The beginning of a file, unless it is the null device in its place or empty."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    return os.read(fd, 200).decode("latin-1").strip("\0\n ") or None


def _names(path: str) -> str | None:
    return " ".join(os.listdir(path)) or None


def _matching(*patterns: str) -> str | None:
    return " ".join(path for pattern in patterns for path in glob.glob(pattern)) or None


for _path in _TELLING:
    FAMILY.add(f"read {_path}", partial(_content, _path), "ENOENT", "EIO")
for _path in _DIRECTORIES:
    FAMILY.add(f"list {_path}", partial(_names, _path), "ENOENT", "ENOTDIR")

# Settings of the kernel.

_SETTINGS = (
    "kernel/core_pattern", "kernel/modprobe", "kernel/sysrq", "kernel/hotplug", "kernel/panic",
    "kernel/kptr_restrict", "kernel/ns_last_pid",
    "kernel/randomize_va_space", "kernel/unprivileged_bpf_disabled", "kernel/perf_event_paranoid", "kernel/pid_max", "kernel/cad_pid",
    "kernel/poweroff_cmd", "kernel/printk", "kernel/shm_rmid_forced", "kernel/domainname", "kernel/usermodehelper/bset",
    "vm/drop_caches", "vm/overcommit_memory", "vm/mmap_min_addr", "vm/panic_on_oom", "vm/swappiness",
    "fs/protected_symlinks", "fs/suid_dumpable",
    "fs/file-max", "fs/binfmt_misc/register", "user/max_user_namespaces", "net/core/bpf_jit_enable", "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/all/arp_ignore", "net/netfilter/nf_conntrack_max",
)  # fmt: skip


def _rewrite(path: str) -> str:
    """Write a setting, with its own value where it can be read."""
    try:
        value = Path(path).read_text()
    except OSError:
        value = "1"
    fd = os.open(path, os.O_WRONLY)
    if stat.S_ISCHR(os.fstat(fd).st_mode):
        raise PermissionError(13, "a mask")
    return f"wrote {os.write(fd, value.encode() or b'1')}"


for _key in _SETTINGS:
    FAMILY.add(
        f"write /proc/sys/{_key}",
        partial(_rewrite, f"/proc/sys/{_key}"),
        "ENOENT",
        "EINVAL",
        "EIO",
        namespace="a /proc/sys of its own, read-only",
    )
for _path in ("/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/sys/power/state", "/proc/sys/fs/binfmt_misc/status", "/proc/mtrr",
              "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/mm/ksm/run",
              "/sys/devices/system/cpu/cpu0/online", "/proc/timer_stats"):  # fmt: skip
    FAMILY.add(f"write {_path}", partial(_rewrite, _path), "ENOENT", "ENOTDIR", "EIO")

# Devices and sockets.

_DEVICES = {
    "a SCSI disk": (stat.S_IFBLK, 8, 0), "a virtual disk": (stat.S_IFBLK, 252, 0), "an NVMe disk": (stat.S_IFBLK, 259, 0),
    "a loop device": (stat.S_IFBLK, 7, 0), "a mapped disk": (stat.S_IFBLK, 253, 0), "the host's memory": (stat.S_IFCHR, 1, 1),
    "the kernel's memory": (stat.S_IFCHR, 1, 2), "ports": (stat.S_IFCHR, 1, 4), "the kernel's log": (stat.S_IFCHR, 1, 11),
    "KVM": (stat.S_IFCHR, 10, 232), "FUSE": (stat.S_IFCHR, 10, 229), "the console": (stat.S_IFCHR, 5, 1),
    "a terminal of the host": (stat.S_IFCHR, 4, 1),
}  # fmt: skip
for _name, (_kind, _major, _minor) in _DEVICES.items():
    FAMILY.add(
        f"make a device for {_name}",
        partial(did, os.mknod, f"/tmp/device-{_major}-{_minor}", _kind | 0o600, os.makedev(_major, _minor)),
        namespace="no CAP_MKNOD in the host's user namespace",
        gvisor="no CAP_MKNOD",
    )

_OWN_DEVICES = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "fuse", "net"}


@FAMILY.attack("find a device that is not its own", namespace="a /dev of six nodes", gvisor="gVisor's /dev")
def _() -> str | None:
    found = []
    for directory, _, names in os.walk("/dev"):
        for name in names:
            path = f"{directory}/{name}"
            mode = os.lstat(path).st_mode
            if (stat.S_ISBLK(mode) or stat.S_ISCHR(mode)) and not path.startswith("/dev/pts/") and path.split("/")[2] not in _OWN_DEVICES:
                found.append(path)
    return " ".join(found) or None


_SOCKETS = {
    "Docker": "/run/docker.sock", "containerd": "/run/containerd/containerd.sock", "CRI-O": "/run/crio/crio.sock",
    "Podman": "/run/podman/podman.sock", "systemd": "/run/systemd/private", "D-Bus": "/run/dbus/system_bus_socket",
    "the kubelet": "/var/lib/kubelet/pod-resources/kubelet.sock", "snapd": "/run/snapd.socket", "LXD": "/var/lib/lxd/unix.socket",
    "this server": "/run/cloister",
}  # fmt: skip
_NOT_THERE = {"namespace": "mount namespace: none is there", "gvisor": "none is there"}
for _name, _path in _SOCKETS.items():
    FAMILY.add(f"find the socket of {_name}", partial(_matching, _path, f"/var{_path}"), **_NOT_THERE)
_TOKENS = {
    "Kubernetes": "/var/run/secrets/kubernetes.io", "Docker": "/root/.docker/config.json", "AWS": "/root/.aws/credentials",
    "Google": "/root/.config/gcloud", "Azure": "/root/.azure", "SSH": "/root/.ssh/id_*", "the server's database": "/var/lib/cloister/*",
    "the kubelet": "/etc/kubernetes/*",
}  # fmt: skip
for _name, _path in _TOKENS.items():
    FAMILY.add(f"find credentials of {_name}", partial(_matching, _path), **_NOT_THERE)


@FAMILY.attack("find a socket file of a process outside", **_NOT_THERE)
def _() -> str | None:
    """Sockets bound to files, of which no process of the sandbox knows."""
    own = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()[1:] if "/" in line}
    found = []
    for top in ("/run", "/var/run", "/tmp", "/.cloister", "/mnt", "/home"):
        for directory, _, names in os.walk(top):
            found += [path for name in names if stat.S_ISSOCK(os.lstat(path := f"{directory}/{name}").st_mode) and path not in own]
    return " ".join(found) or None


@FAMILY.attack(
    "find a control group with a release agent", namespace="no control groups are mounted but six files", gvisor="none are mounted"
)
def _() -> str | None:
    found = [
        *glob.glob("/sys/fs/cgroup/**/release_agent", recursive=True),
        *glob.glob("/.cloister/cgroup/**/release_agent", recursive=True),
    ]
    return " ".join(found) or None


@FAMILY.attack("leave its control group", "ENOENT", namespace="the files of its group are read-only", gvisor="none are mounted")
def _() -> str | None:
    for path in [
        *glob.glob("/sys/fs/cgroup/**/cgroup.procs", recursive=True),
        *glob.glob("/.cloister/cgroup/**/cgroup.procs", recursive=True),
    ]:
        fd = os.open(path, os.O_WRONLY)
        return f"{path}: {os.write(fd, b'0')}"
    return None


@FAMILY.attack("raise a limit of its control group", "ENOENT", namespace="the files of its group are read-only", gvisor="none are mounted")
def _() -> str | None:
    for pattern in ("memory.limit_in_bytes", "memory.max", "pids.max", "cpu.max"):
        for path in [
            *glob.glob(f"/sys/fs/cgroup/**/{pattern}", recursive=True),
            *glob.glob(f"/.cloister/cgroup/**/{pattern}", recursive=True),
        ]:
            return f"{path}: {os.write(os.open(path, os.O_WRONLY), b'-1')}"
    return None


@FAMILY.attack("mount control groups", namespace="seccomp", gvisor="no CAP_SYS_ADMIN")
def _() -> object:
    return call(165, b"none", b"/mnt", b"cgroup", 0, b"memory")
