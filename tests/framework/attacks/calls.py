"""System calls that no sandbox needs, by their numbers on x86_64. Source: syscall(2), runtime/namespace/profiles/default.json."""

from __future__ import annotations

import ctypes
import mmap
import struct
from dataclasses import dataclass
from functools import partial
from typing import Any

from .base import Family, call, in_child

__all__ = ["CALLS", "FAMILY", "Call"]

FAMILY = Family("seccomp", "gVisor's kernel does not have it")
_ADMIN = "no CAP_SYS_ADMIN"
_MNT, _NONE = b"/mnt", b"none"


@dataclass(frozen=True)
class Call:
    """One call. ``harmless``: arguments for the host's root, with which it fails or does nothing; None: there it is not tried."""

    name: str
    number: int
    arguments: tuple[Any, ...] = ()
    harmless: tuple[Any, ...] | None = ()
    gvisor: str = ""
    refusals: tuple[str, ...] = ()


def _buffer(size: int = 256) -> Any:
    return ctypes.create_string_buffer(size)


_HERE = -100
CALLS = (
    Call("add_key", 248, (b"user", b"attack", b"secret", 6, -4), (0, 0, 0, 0, 0)),
    Call("request_key", 249, (b"user", b"attack", None, -4), (0, 0, 0, 0)),
    Call("keyctl", 250, (0, -4, 1), (0, 0, 0)),
    Call("io_uring_setup", 425, (8, _buffer()), (0, 0)),
    Call("io_uring_enter", 426, (0, 1, 1, 0, None, 0), (-1, 1, 1, 0, 0, 0)),
    Call("io_uring_register", 427, (0, 0, None, 0), (-1, 0, 0, 0)),
    Call("bpf", 321, (5, _buffer(128), 128), (99, 0, 0), "no CAP_SYS_ADMIN"),
    Call("perf_event_open", 298, (_buffer(128), -1, 0, -1, 0), (0, 0, 0, 0, 0), "gVisor's kernel refuses it", ("ENODEV",)),
    Call("userfaultfd", 323, (0,), (0xFFFF,), "gVisor's kernel does not have it"),
    Call("fanotify_init", 300, (0, 0), (0xFFFFFFFF, 0)),
    Call("fanotify_mark", 301, (0, 1, 2, _HERE, b"/"), (-1, 0, 0, 0, 0)),
    Call("mount", 165, (_NONE, _MNT, b"tmpfs", 0, None), (0, 0, 0, 0, 0), _ADMIN),
    Call("umount2", 166, (b"/proc", 2), (b"", 0), _ADMIN),
    Call("pivot_root", 155, (b"/", _MNT), (b"", b""), _ADMIN),
    Call("move_mount", 429, (_HERE, b"/proc", _HERE, _MNT, 0), (-1, 0, -1, 0, 0)),
    Call("open_tree", 428, (_HERE, b"/", 1), (-1, 0, 0)),
    Call("open_tree_attr", 467, (_HERE, b"/", 1, _buffer(), 32), (-1, 0, 0, 0, 0)),
    Call("fsopen", 430, (b"tmpfs", 0), (0, 0)),
    Call("fsconfig", 431, (0, 0, b"a", b"b", 0), (-1, 0, 0, 0, 0), "no context for a mount can be opened", ("EINVAL",)),
    Call("fsmount", 432, (0, 0, 0), (-1, 0, 0)),
    Call("fspick", 433, (_HERE, b"/", 0), (-1, 0, 0)),
    Call("mount_setattr", 442, (_HERE, b"/", 0, _buffer(), 32), (-1, 0, 0, 0, 0)),
    Call("statmount", 457, (_buffer(), _buffer(), 256, 0), (0, 0, 0, 0)),
    Call("listmount", 458, (_buffer(), _buffer(), 16, 0), (0, 0, 0, 0)),
    Call("setns", 308, (0, 0), (-1, 0), "only namespaces of gVisor's own", ("EINVAL",)),
    Call("open_by_handle_at", 304, (_HERE, struct.pack("II8x", 8, 1), 0), (0, 0, 0), "gVisor has no handles", ("ENOTSUP",)),
    Call("pidfd_getfd", 438, (0, 0, 0), (-1, 0, 0), "only descriptors of gVisor's own", ("EBADF",)),
    Call("kcmp", 312, (1, 1, 0, 0, 0), (0, 0, 0, 0, 0)),
    Call("migrate_pages", 256, (1, 1, _buffer(8), _buffer(8)), (0, 0, 0, 0), "gVisor's kernel refuses it"),
    Call("move_pages", 279, (1, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 99), "gVisor's kernel refuses it"),
    Call("kexec_load", 246, (0, 0, None, 0), (0, 99, 0, 0)),
    Call("kexec_file_load", 320, (0, 0, 0, b"", 0), (-1, -1, 0, 0, 0xFF)),
    Call("init_module", 175, (b"x", 1, b""), (0, 0, 0), "gVisor has no modules"),
    Call("finit_module", 313, (0, b"", 0), (-1, 0, 0), "gVisor has no modules"),
    Call("delete_module", 176, (b"attack", 0), (b"", 0), "gVisor has no modules"),
    Call("reboot", 169, (0xFEE1DEAD, 672274793, 0x1234567, 0), (0, 0, 0, 0), "gVisor's kernel refuses it"),
    Call("swapon", 167, (b"/etc/passwd", 0), (b"", 0), "gVisor has no swap"),
    Call("swapoff", 168, (b"/etc/passwd",), (b"",), "gVisor has no swap"),
    Call("quotactl", 179, (0x800001 << 8, b"/", 0, 0), (0, 0, 0, 0)),
    Call("quotactl_fd", 443, (0, 0x800001 << 8, 0, 0), (-1, 0, 0, 0)),
    Call("acct", 163, (b"/tmp/accounts",), (b"",), "gVisor's kernel refuses it"),
    Call("settimeofday", 164, (struct.pack("qq", 1, 0), None), (0, 0), "gVisor's kernel refuses it"),
    Call("clock_settime", 227, (0, struct.pack("qq", 1, 0)), (-1, 0), "gVisor's kernel refuses it"),
    Call("clock_adjtime", 305, (0, struct.pack("I", 1) + bytes(252)), (99, 0)),
    Call("adjtimex", 159, (struct.pack("I", 1) + bytes(252),), (0,), "gVisor's kernel refuses it"),
    Call("iopl", 172, (3,), (0,), "gVisor's kernel refuses it"),
    Call("ioperm", 173, (0x70, 1, 1), (0, 0, 0), "gVisor's kernel refuses it"),
    Call("vhangup", 153, (), None, "gVisor's kernel refuses it"),
    Call("modify_ldt", 154, (0, _buffer(), 16), (0, 0, 0), "gVisor's kernel refuses it"),
    Call("set_thread_area", 205, (_buffer(),), None),
    Call("get_thread_area", 211, (_buffer(),), None),
    Call("lsm_get_self_attr", 459, (100, _buffer(), _buffer(8), 0), (0, 0, 0, 0)),
    Call("lsm_set_self_attr", 460, (100, _buffer(), 8, 0), (0, 0, 0, 0)),
    Call("lsm_list_modules", 461, (_buffer(), _buffer(8), 0), (0, 0, 0)),
    Call("uselib", 134, (b"/bin/true",), None),
    Call("ustat", 136, (0, _buffer()), (0, 0)),
    Call("sysfs", 139, (3,), (99,)),
    Call("_sysctl", 156, (_buffer(),), None),
    Call("create_module", 174, (b"x", 1), None),
    Call("query_module", 178, (None, 1, None, 0, None), None),
    Call("nfsservctl", 180, (0, None, None), None),
    Call("lookup_dcookie", 212, (0, _buffer(), 256), None),
    Call("file_setattr", 469, (_HERE, b"/", _buffer(), 24, 0), (-1, 0, 0, 0, 0)),
    Call("clone3", 435, (_buffer(), 0), (0, 0), "only processes and namespaces of gVisor's own", ("EINVAL",)),
)


for _one in CALLS:
    FAMILY.add(f"call {_one.name}", partial(call, _one.number, *_one.arguments), *_one.refusals, gvisor=_one.gvisor)


@FAMILY.attack("read the host's kernel log", gvisor="gVisor's kernel has a log of its own")
def _() -> str | None:
    buffer = _buffer(1 << 16)
    size = call(103, 3, buffer, 1 << 16)
    text = buffer.raw[:size].decode(errors="replace")
    return None if "gVisor" in text else text


def _by_int80(number: int) -> int:
    """A system call by the gate of 32-bit programs."""
    code = b"\xb8" + number.to_bytes(4, "little") + b"\xcd\x80\xc3"  # mov eax, number; int 0x80; ret
    return _machine(code)


def _machine(code: bytes) -> int:
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return int(function())


@FAMILY.attack("make system calls as a 32-bit program", namespace="seccomp: other architectures end the process")
def _() -> str | None:
    return "answered" if in_child(lambda: _by_int80(20) > 0) else None  # getpid


@FAMILY.attack("make system calls of the x32 kind", namespace="seccomp: other architectures end the process")
def _() -> str | None:
    return "answered" if in_child(lambda: call(0x40000000 | 39) > 0) else None


_PERSONALITIES = {"data that is code": 0x0400000, "memory at address zero": 0x0100000, "another system's": 0x0003}
for _what, _number in _PERSONALITIES.items():
    FAMILY.add(
        f"take a personality: {_what}",
        partial(call, 135, _number),
        "EINVAL",
        gvisor="gVisor's kernel knows one personality",
    )
