"""Attacks by namespaces: making one, entering one, and the power of the root of one's own user namespace."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .base import Attempt, Family, call, libc
from .netlink import change_link, delete_route, make_tunnel, new_address

__all__ = ["FAMILY"]

FAMILY = Family("seccomp: no namespace is made or entered", "no CAP_SYS_ADMIN")

_UNSHARE, _CLONE, _SETNS, _MOUNT, _UMOUNT = 272, 56, 308, 165, 166
_USER, _MNT_NS = 0x1000_0000, 0x2_0000
_KINDS = {
    "mount": _MNT_NS, "cgroup": 0x200_0000, "UTS": 0x400_0000, "IPC": 0x800_0000, "pid": 0x2000_0000, "network": 0x4000_0000,
}  # fmt: skip


def _clone(flag: int) -> str:
    pid = call(_CLONE, flag | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "made"


for _name, _flag in _KINDS.items():
    FAMILY.add(f"make a {_name} namespace by unshare", partial(call, _UNSHARE, _flag), "EINVAL")
    if _name != "mount":
        FAMILY.add(f"make a {_name} namespace by clone", partial(_clone, _flag), "EINVAL")


@FAMILY.attack("mount in a mount namespace made by clone", gvisor="gVisor makes it; a mount in it needs CAP_SYS_ADMIN")
def _() -> str | None:
    ours, theirs = os.pipe()
    pid = call(_CLONE, _MNT_NS | 17, 0, 0, 0, 0)
    if pid == 0:
        mounted = libc.mount(b"none", b"/mnt", b"tmpfs", 0, None) == 0
        os.write(theirs, b"mounted" if mounted else b"no")
        os._exit(0)
    os.waitpid(pid, 0)
    return "mounted" if os.read(ours, 9) == b"mounted" else None


@FAMILY.attack("make a time namespace", "EINVAL", gvisor="gVisor's kernel does not have it")
def _() -> str | None:
    call(_UNSHARE, 0x80)
    return "made" if Path("/proc/self/ns/time_for_children").exists() else None


def _enter(kind: str) -> str:
    fd = os.open(f"/proc/1/ns/{kind}", os.O_RDONLY)
    return f"entered {call(_SETNS, fd, 0)}"


for _name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"):
    FAMILY.add(
        f"enter the {_name} namespace of pid 1",
        partial(_enter, _name),
        *("EINVAL", "ENOENT", "ENXIO"),
        namespace="pid 1 is not dumpable; seccomp",
        gvisor="no CAP_SYS_ADMIN; gVisor shows no way in to some kinds",
    )


def _as_root_of_a_namespace(work: Callable[[], object], flags: int = 0) -> Attempt:
    """``work`` by the root of a user namespace, and with the other namespaces of ``flags``."""

    def attempt() -> object:
        call(_UNSHARE, _USER)
        for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
            Path(f"/proc/self/{name}").write_text(text)
        if flags:
            call(_UNSHARE, flags)
        return work()

    return attempt


_NESTED = "gVisor asks for the power in the user namespace of the object"


def _nested(name: str, work: Callable[[], object], *refusals: str, flags: int = 0, gvisor: str = _NESTED) -> None:
    FAMILY.add(f"{name} as root of a user namespace", _as_root_of_a_namespace(work, flags), *refusals, gvisor=gvisor)


_nested("use a raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
_nested("use a packet socket", lambda: socket.socket(17, socket.SOCK_RAW, 0x300))
_nested("add an address", lambda: new_address("10.200.0.9"))
_nested("take the interface down", lambda: change_link(up=False))
_nested("delete the default route", delete_route, "EOPNOTSUPP")
_nested("mount in the mount namespace of the sandbox", lambda: call(_MOUNT, b"none", b"/mnt", b"tmpfs", 0, None))
_nested("change the sandbox's name", lambda: call(170, b"other", 5))
_nested("make a device", lambda: call(133, b"/tmp/disk", 0o60600, 0xFE00))
_nested("set the clock", lambda: call(227, 0, struct.pack("qq", 1, 0)), gvisor="gVisor's kernel refuses it")
_nested("become another user of the sandbox", lambda: call(105, 1000), "EINVAL")
_nested("make a tunnel", make_tunnel, "ENOENT")
_nested(
    "make the server's programs writable",
    lambda: call(_MOUNT, None, b"/.cloister/agent", None, 4096 | 32, None),
    flags=_MNT_NS,
)
_nested("unmount the server's programs", lambda: call(_UMOUNT, b"/.cloister/agent", 2), "EINVAL", flags=_MNT_NS, gvisor="mounts are locked")
_nested("unmount /proc", lambda: call(_UMOUNT, b"/proc", 2), "EINVAL", flags=_MNT_NS, gvisor="mounts are locked")
for _kind, _source in (("9p", b"trans=fd,rfdno=0,wfdno=0"), ("ext4", b""), ("btrfs", b""), ("nfs", b""), ("cgroup2", b""), ("debugfs", b""),
                       ("tracefs", b""), ("bpf", b""), ("securityfs", b""), ("binfmt_misc", b""), ("configfs", b""),
                       ("fuseblk", b"")):  # fmt: skip
    _nested(
        f"mount {_kind}",
        partial(call, _MOUNT, b"/dev/null", b"/mnt", _kind.encode(), 0, _source),
        *("ENODEV", "ENOTBLK"),
        flags=_MNT_NS,
        gvisor="gVisor does not have it, or not for programs",
    )
