"""Loop devices: a bounded ext4 image as a block device that goes away with its last user.

Needs: CAP_SYS_ADMIN, /dev/loop-control. Source: loop(4), LOOP_CONFIGURE since Linux 5.8.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["attach_image", "attached_device"]

_LOOP_GET_STATUS64, _LOOP_CONFIGURE, _LOOP_CTL_GET_FREE = 0x4C05, 0x4C0A, 0x4C82
_LO_FLAGS_AUTOCLEAR, _LO_FLAGS_DIRECT_IO = 4, 16
_ATTEMPTS = 64


class _LoopInfo(ctypes.Structure):
    _fields_ = (
        ("head", ctypes.c_uint64 * 5),
        ("number_and_encryption", ctypes.c_uint32 * 3),
        ("flags", ctypes.c_uint32),
        ("names_and_key", ctypes.c_uint8 * (64 + 64 + 32)),
        ("init", ctypes.c_uint64 * 2),
    )


class _LoopConfig(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_uint32), ("block_size", ctypes.c_uint32), ("info", _LoopInfo), ("reserved", ctypes.c_uint64 * 8))


@contextmanager
def attach_image(image: Path) -> Iterator[str]:
    """The path of a loop device over ``image``; after the block it lives on only while something has it mounted.

    Raises: OSError, also when no loop device is free after many attempts (other programs race for them).
    """
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        device, path = _configure(backing)
    finally:
        os.close(backing)
    try:
        yield path
    finally:
        os.close(device)


@contextmanager
def attached_device(image: Path, number: int) -> Iterator[str]:
    """The path of loop device ``number``, held open for the time of the block so that it stays attached to ``image``.

    Raises: OSError, also (ENXIO) when the device is attached to something else by now.
    """
    path = f"/dev/loop{number}"
    device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = _LoopInfo()
        fcntl.ioctl(device, _LOOP_GET_STATUS64, status)
        if status.head[1] != image.stat().st_ino:  # head: device, inode, rdevice, offset, size limit
            raise OSError(errno.ENXIO, f"{path} is not attached to {image}")
        yield path
    finally:
        os.close(device)


def _configure(backing: int) -> tuple[int, str]:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            path = f"/dev/loop{number}"
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            config = _LoopConfig(fd=backing, block_size=0)
            config.info.flags = _LO_FLAGS_AUTOCLEAR | _LO_FLAGS_DIRECT_IO
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
                continue
            return device, path
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no free loop device")
