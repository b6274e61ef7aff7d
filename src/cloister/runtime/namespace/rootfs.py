"""The file system of a sandbox: id-mapped layers, a bounded writable upper, a minimal /dev; all as detached mounts.

Runs in: supervisor. Walks no path inside a sandbox's tree (I2): the sandbox assembles its own root from the descriptors made here.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path

from cloister.errors import IsolationError
from cloister.linux.ext4 import empty_image
from cloister.linux.loop import attach_image, attached_device
from cloister.linux.mounts import MountFlag, clone_tree, map_mount, mount_filesystem
from cloister.runtime.spec import MAX_LAYERS, AgentTree

__all__ = [
    "close_with",
    "common_mounts",
    "context_mount",
    "layer_mounts",
    "make_dev_tree",
    "make_disk",
    "map_disk",
    "mount_disk",
    "reopen_disk",
    "show_disk",
]

_NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"}


def make_dev_tree(directory: Path) -> Path:
    """The one /dev that every sandbox gets a read-only view of; made anew if something of it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    for name, (major, minor) in _NODES.items():
        path = directory / name
        if not path.exists():
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        path.chmod(0o666)
    for name in ("pts", "shm", "mqueue"):
        (directory / name).mkdir(exist_ok=True)
    for name, target in _LINKS.items():
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(target)
    return directory


def make_disk(image: Path, size_mib: int, inodes: int) -> None:
    """A sparse file with an empty ext4 of ``size_mib`` and ``inodes``; no journal, since it dies with its sandbox.

    Raises: IsolationError.
    """
    empty = empty_image(size_mib, inodes)
    try:
        empty.write(image)
    except OSError as error:
        raise IsolationError(
            f"cannot make the sandbox's disk: {error.strerror}", step="disk", errno=error.errno or 0, path=str(image)
        ) from error


def mount_disk(image: Path) -> int:
    """The disk as a detached mount, which the caller closes; :func:`map_disk` makes it a sandbox's. Raises: IsolationError."""
    try:
        with attach_image(image) as device:
            return mount_filesystem("ext4", device, ("noinit_itable",), MountFlag.NO_DEV)
    except OSError as error:
        raise IsolationError(
            f"cannot mount the sandbox's disk: {error.strerror}", step="disk", errno=error.errno or 0, path=str(image)
        ) from error


def map_disk(disk_fd: int, userns_fd: int) -> int:
    """Id-map a detached disk to the sandbox, for good; gives another descriptor of it, which the caller closes. Raises: IsolationError."""
    try:
        map_mount(disk_fd, userns_fd)
    except OSError as error:
        raise IsolationError(f"cannot id-map the sandbox's disk: {error.strerror}", step="disk", errno=error.errno or 0) from error
    return os.dup(disk_fd)


def reopen_disk(image: Path, number: int, flags: MountFlag = MountFlag.NO_DEV) -> int:
    """Another detached mount of a disk that is mounted from loop device ``number``; the caller closes it.

    Nothing is looked up in it (I2). Raises: OSError.
    """
    with attached_device(image, number) as device:
        return mount_filesystem("ext4", device, ("noinit_itable",), flags)


def show_disk(image: Path, number: int, userns_fd: int) -> int:
    """A disk that is mounted from loop device ``number`` for another sandbox, whose ``userns_fd`` is: read-only, id-mapped.

    The caller closes it. Nothing is looked up in it (I2). Raises: IsolationError.
    """
    sealed = MountFlag.READ_ONLY | MountFlag.NO_SUID | MountFlag.NO_DEV | MountFlag.NO_EXEC
    try:
        fd = reopen_disk(image, number, sealed)
        try:
            map_mount(fd, userns_fd)
        except OSError:
            os.close(fd)
            raise
    except OSError as error:
        what = f"cannot show the sandbox's disk to its copier: {error.strerror}"
        raise IsolationError(what, step="disk", errno=error.errno or 0, path=str(image)) from error
    return fd


def layer_mounts(layers: tuple[Path, ...], userns_fd: int, stack: ExitStack) -> list[tuple[str, int]]:
    """A read-only, id-mapped view of each layer, lowest first, closed by ``stack``; beside a template's, the host layer may be one.

    Raises: IsolationError.
    """
    if len(layers) > MAX_LAYERS + 1:
        raise IsolationError(f"a sandbox of {len(layers)} layers cannot be made: a template has at most {MAX_LAYERS}", step="mount")
    return [("lower", _clone(layer, MountFlag.READ_ONLY | MountFlag.NO_DEV, stack, userns_fd=userns_fd)) for layer in layers]


def common_mounts(
    tree: AgentTree | None, dev_tree: Path, cgroups: dict[str, Path], userns_fd: int, stack: ExitStack
) -> list[tuple[str, int]]:
    """What a sandbox sees beside its own files: /dev, the agent, and its own control group to read. Raises: IsolationError."""
    sealed = MountFlag.READ_ONLY | MountFlag.NO_SUID | MountFlag.NO_DEV
    dev = MountFlag.READ_ONLY | MountFlag.NO_SUID | MountFlag.NO_EXEC
    found = [("dev", _clone(dev_tree, dev, stack, clear=MountFlag.NO_DEV))]
    if tree is None:
        return found
    found += [("interpreter", _clone(layer, sealed, stack, userns_fd=userns_fd)) for layer in tree.interpreter]
    found.append(("mount:/.cloister/agent", _clone(tree.agent, sealed, stack)))
    for controller, directory in cgroups.items():
        target = "/.cloister/cgroup" + ("" if controller == "unified" else f"/{controller}")
        found.append((f"mount:{target}", _clone(directory, sealed | MountFlag.NO_EXEC, stack)))
    return found


def context_mount(directory: Path, userns_fd: int, stack: ExitStack) -> tuple[str, int]:
    """A directory of the host for a sandbox to read: id-mapped, and nothing in it is a program or a device. Raises: IsolationError."""
    sealed = MountFlag.READ_ONLY | MountFlag.NO_SUID | MountFlag.NO_DEV | MountFlag.NO_EXEC
    return "mount:/.cloister/context", _clone(directory, sealed, stack, userns_fd=userns_fd)


def close_with(stack: ExitStack, fd: int) -> int:
    """Let ``stack`` close ``fd``."""
    stack.callback(os.close, fd)
    return fd


def _clone(path: Path, flags: MountFlag, stack: ExitStack, *, clear: MountFlag = MountFlag.NONE, userns_fd: int | None = None) -> int:
    try:
        return close_with(stack, clone_tree(path, flags, clear=clear, userns_fd=userns_fd))
    except OSError as error:
        raise IsolationError(f"cannot mount {path}: {error.strerror}", step="mount", errno=error.errno or 0, path=str(path)) from error
