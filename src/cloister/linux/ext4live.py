"""Mounted ext4 file systems of sandboxes: measures them, limits their growth, writes them out, and returns free
blocks to the image file.

Owns no descriptor. Every call takes a detached mount of the file system; an ``O_PATH`` descriptor is enough. The growth limit is
``reserved_clusters``: blocks that ext4 keeps from every writer, root included. A ``write`` beyond the rest fails with ENOSPC at once,
before it dirties a page.
Runs in: supervisor. Needs: CAP_SYS_ADMIN. Source: Documentation/ABI/testing/sysfs-fs-ext4, ioctl_fitrim in linux/fs.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cloister.linux.syscall import sync_filesystem

__all__ = ["Filling", "bound_filling", "frozen", "measure", "sync", "thaw", "trim"]

_FITRIM = 0xC0185879
_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878
_RESERVED = "/sys/fs/ext4/loop{}/reserved_clusters"
_KEPT_BLOCKS = 4096
"""ext4 itself reserves this many blocks for its metadata, or a fiftieth of all if that is less."""
_UNABLE = (errno.EOPNOTSUPP, errno.ENOTTY)


@dataclass(frozen=True)
class Filling:
    """Use of a file system, in bytes. Data written but not yet allocated counts as used."""

    total: int
    used: int
    block: int


def measure(fd: int) -> Filling:
    """Size and use of the file system. Raises: OSError."""
    found = os.fstatvfs(fd)
    return Filling(found.f_blocks * found.f_frsize, (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_frsize)


def bound_filling(number: int, filling: Filling, most: int) -> None:
    """Limit the ext4 on loop device ``number`` to ``most`` bytes, for root too. Existing data stays.

    Raises: OSError.
    """
    blocks = filling.total // filling.block
    own = min(_KEPT_BLOCKS, blocks // 50)
    kept = min(blocks - 1, max(own, blocks - max(0, most) // filling.block))
    fd = os.open(_RESERVED.format(number), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(kept).encode())
    finally:
        os.close(fd)


def sync(fd: int) -> None:
    """Wait until the file system is written to its image file. Raises: OSError, also for a write that failed before. Source: syncfs(2)."""
    with _opened(fd) as root:
        sync_filesystem(root)


def trim(fd: int) -> None:
    """Punch the free blocks of the file system out of its image file; takes milliseconds. Does nothing where the kernel cannot.

    Raises: OSError.
    """
    with _opened(fd) as root:
        try:
            fcntl.ioctl(root, _FITRIM, bytearray(struct.pack("QQQ", 0, 2**64 - 1, 65536)))
        except OSError as error:
            if error.errno not in _UNABLE:
                raise


@contextmanager
def frozen(fd: int) -> Iterator[None]:
    """For the time of the block the image file is whole and does not change; writers wait. Raises: OSError (EBUSY: frozen already)."""
    with _opened(fd) as root:
        fcntl.ioctl(root, _FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(root, _FITHAW, 0)


def thaw(fd: int) -> None:
    """End a freeze whose maker was killed: it outlives that, and every mount. Does nothing to what is not frozen. Raises: OSError."""
    with _opened(fd) as root:
        try:
            fcntl.ioctl(root, _FITHAW, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise


@contextmanager
def _opened(fd: int) -> Iterator[int]:
    """The root directory of the mount, opened to read: the calls take no ``O_PATH`` descriptor."""
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        yield root
    finally:
        os.close(root)
