"""The file system of a sandbox as detached mounts: id-mapped layers, a minimal /dev in memory, and further directories.

Walks no path inside a sandbox's tree (I2). The sandbox assembles its own root from the descriptors that are made here.
Runs in: supervisor and builds, in worker threads. Needs: root (CAP_SYS_ADMIN to mount, CAP_MKNOD for devices).
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path

from cloister.errors import IsolationError
from cloister.linux.mounts import MountFlag, clone_tree, mount_filesystem
from cloister.runtime.spec import MAX_LAYERS, AgentTree, Mount

__all__ = [
    "close_with",
    "common_mounts",
    "further_mounts",
    "layer_mounts",
    "memory_mount",
]

_NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_NODE_MODE = 0o666
_DIRECTORIES = {"dev": 0o755, "dev/pts": 0o755, "dev/shm": 0o755, "dev/mqueue": 0o755, "empty": 0o555, "proc": 0o777, "shm": 0o1777}
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"}
_MEMORY_ROOM = 1 << 20
"""Bytes beside /dev/shm, for files of /proc."""
_PAGE = 4096
_MAX_TREES = 6
"""Beside the agent's tree: native/wire.h has seven mount points from FIRST_TREE on."""


def layer_mounts(layers: tuple[Path, ...], userns_fd: int, stack: ExitStack) -> list[tuple[str, int]]:
    """A read-only, id-mapped mount of each layer, lowest first, which ``stack`` closes. The host layer may come on top of a template's.

    Raises: IsolationError.
    """
    if len(layers) > MAX_LAYERS + 1:
        raise IsolationError(f"a sandbox of {len(layers)} layers cannot be made: a template has at most {MAX_LAYERS}", step="mount")
    return [("lower", _clone(layer, MountFlag.READ_ONLY | MountFlag.NO_DEV, stack, userns_fd=userns_fd)) for layer in layers]


def memory_mount(shm_bytes: int, owner: int, stack: ExitStack) -> tuple[str, int]:
    """Make a sandbox's own file system in memory: devices, room for files of /proc, and /dev/shm, which belongs to host id ``owner``.

    Each sandbox has its own, because a watch or a lock on a shared /dev/null would reveal neighbours. The supervisor makes it for two
    reasons: device nodes do not work on a mount that was made in a user namespace, and the kernel shows the host id of the mounter.
    Raises: IsolationError.
    """
    try:
        options = ("mode=755", f"size={shm_bytes + _MEMORY_ROOM}", f"nr_inodes={(shm_bytes + _MEMORY_ROOM) // _PAGE}")
        fd = close_with(stack, mount_filesystem("tmpfs", "tmpfs", options, MountFlag.NO_SUID))
        for name, mode in _DIRECTORIES.items():
            os.mkdir(name, dir_fd=fd)
            os.chmod(name, mode, dir_fd=fd)
        for name, (major, minor) in _NODES.items():
            os.mknod(f"dev/{name}", stat.S_IFCHR, os.makedev(major, minor), dir_fd=fd)
            os.chmod(f"dev/{name}", _NODE_MODE, dir_fd=fd)
        for name, target in _LINKS.items():
            os.symlink(target, f"dev/{name}", dir_fd=fd)
        os.chown("shm", owner, owner, dir_fd=fd)
    except OSError as error:
        raise IsolationError(f"cannot make the sandbox's memory file system: {error}", step="memory", errno=error.errno or 0) from error
    return "memory", fd


def common_mounts(
    tree: AgentTree | None, proc_tree: Path, cgroups: dict[str, Path], userns_fd: int, stack: ExitStack
) -> list[tuple[str, int]]:
    """Mounts that every sandbox has: fixed files of /proc, the agent, and its own control group to read. Raises: IsolationError."""
    sealed = MountFlag.READ_ONLY | MountFlag.NO_SUID | MountFlag.NO_DEV
    found = [("fixed", _clone(proc_tree, sealed | MountFlag.NO_EXEC, stack, userns_fd=userns_fd))]
    if tree is None:
        return found
    found += [("interpreter", _clone(layer, sealed, stack, userns_fd=userns_fd)) for layer in tree.interpreter]
    found.append(("tree:/.cloister/agent", _clone(tree.agent, sealed, stack, userns_fd=userns_fd)))
    for controller, directory in cgroups.items():
        target = "/.cloister/cgroup" + ("" if controller == "unified" else f"/{controller}")
        found.append((f"mount:{target}", _clone(directory, sealed | MountFlag.NO_EXEC, stack)))
    return found


def further_mounts(mounts: tuple[Mount, ...], userns_fd: int, stack: ExitStack) -> list[tuple[str, int]]:
    """The mounts of a spec: id-mapped, and nothing in them works as a program or a device. Raises: IsolationError.

    A read-only directory of the host becomes an overlay of the sandbox's own (native/slot.c: "tree"): so sandboxes share no inode of it.
    """
    sealed = MountFlag.NO_SUID | MountFlag.NO_DEV | MountFlag.NO_EXEC
    if sum(isinstance(mount.source, Path) and not mount.is_writable for mount in mounts) > _MAX_TREES:
        raise IsolationError(f"a sandbox can see at most {_MAX_TREES} directories of the host", step="mount")
    found = []
    for mount in mounts:
        if not isinstance(mount.source, Path):
            found.append((f"mount:{mount.target}", close_with(stack, mount.source.open_disk(userns_fd))))
        elif mount.is_writable:
            found.append((f"mount:{mount.target}", _clone(mount.source, sealed, stack, userns_fd=userns_fd)))
        else:
            found.append((f"tree:{mount.target}", _clone(mount.source, sealed | MountFlag.READ_ONLY, stack, userns_fd=userns_fd)))
    return found


def close_with(stack: ExitStack, fd: int) -> int:
    """Let ``stack`` close ``fd``."""
    stack.callback(os.close, fd)
    return fd


def _clone(path: Path, flags: MountFlag, stack: ExitStack, *, userns_fd: int | None = None) -> int:
    try:
        return close_with(stack, clone_tree(path, flags, userns_fd=userns_fd))
    except OSError as error:
        raise IsolationError(f"cannot mount {path}: {error.strerror}", step="mount", errno=error.errno or 0, path=str(path)) from error
