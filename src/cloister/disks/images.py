"""Disk images of sandboxes, and detached mounts of them.

A disk is a sparse file with an ext4 file system, mounted from a loop device and attached nowhere on the host. No function here looks up a
path inside a disk (I2). Runs in: supervisor and builds, in worker threads. Needs: root (CAP_SYS_ADMIN, to mount).
"""

from __future__ import annotations

import os
from pathlib import Path

from cloister.errors import IsolationError
from cloister.linux.ext4 import empty_image
from cloister.linux.loop import attach_image, attached_device
from cloister.linux.mounts import MountFlag, map_mount, mount_filesystem

__all__ = ["make_disk", "map_disk", "mount_disk", "reopen_disk", "show_disk"]


def make_disk(image: Path, size_mib: int, inodes: int) -> None:
    """Make a sparse file with an empty ext4 of ``size_mib`` and ``inodes``. It has no journal, because it dies with its sandbox.

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
    """Mount a disk; gives a detached mount, which the caller closes. :func:`map_disk` gives it to a sandbox. Raises: IsolationError."""
    try:
        with attach_image(image) as device:
            return mount_filesystem("ext4", device, ("noinit_itable",), MountFlag.NO_DEV)
    except OSError as error:
        raise IsolationError(
            f"cannot mount the sandbox's disk: {error.strerror}", step="disk", errno=error.errno or 0, path=str(image)
        ) from error


def map_disk(disk_fd: int, userns_fd: int) -> int:
    """Id-map a detached disk to a sandbox, for good; gives another descriptor of it, which the caller closes. Raises: IsolationError."""
    try:
        map_mount(disk_fd, userns_fd)
    except OSError as error:
        raise IsolationError(f"cannot id-map the sandbox's disk: {error.strerror}", step="disk", errno=error.errno or 0) from error
    return os.dup(disk_fd)


def reopen_disk(image: Path, number: int, flags: MountFlag = MountFlag.NO_DEV) -> int:
    """Mount a disk once more that is mounted from loop device ``number``; the caller closes the detached mount. Raises: OSError."""
    with attached_device(image, number) as device:
        return mount_filesystem("ext4", device, ("noinit_itable",), flags)


def show_disk(image: Path, number: int, userns_fd: int) -> int:
    """Mount a disk for another sandbox, whose user namespace is ``userns_fd``: read-only, id-mapped to it, without programs or devices.

    ``number`` is the loop device that the disk is mounted from. The caller closes the detached mount. Raises: IsolationError.
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
