"""Loop devices: attaches a disk image as a block device, which the kernel detaches after its last user.

Runs in: supervisor. Needs: CAP_SYS_ADMIN, /dev/loop-control. Source: loop(4), LOOP_CONFIGURE since Linux 5.8.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["attach_image", "attached_device", "devices_of"]

_LOOP_GET_STATUS64, _LOOP_CONFIGURE, _LOOP_CTL_GET_FREE = 0x4C05, 0x4C0A, 0x4C82
_LO_FLAGS_AUTOCLEAR, _LO_FLAGS_DIRECT_IO = 4, 16
_ATTEMPTS = 64
_SYS_BLOCK = Path("/sys/block")


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
    """The path of a loop device of ``image``. After the block the device stays attached only while it is mounted.

    Raises: OSError, also if other programs take every free device for many attempts.
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
    """The path of loop device ``number``, kept open during the block so that it stays attached to ``image``.

    Raises: OSError; ENXIO if the device is attached to another file by now.
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


def devices_of(image: Path) -> list[int]:
    """Numbers of the loop devices that are attached to ``image``. Raises: OSError."""
    wanted = image.stat()
    devices = ((entry, int(entry.name.removeprefix("loop"))) for entry in _SYS_BLOCK.glob("loop*"))
    return [number for entry, number in devices if _has_backing(entry, number, wanted)]


def _has_backing(entry: Path, number: int, wanted: os.stat_result) -> bool:
    """Opens no device where its file can be found by name: that would keep the device attached for a moment."""
    try:
        name = (entry / "loop" / "backing_file").read_text().rstrip("\n")
    except OSError:  # it is attached to no file
        return False
    try:
        return os.path.samestat(Path(name).stat(), wanted)
    except OSError:
        status = _status(f"/dev/loop{number}")
        return status is not None and (status.head[0], status.head[1]) == (wanted.st_dev, wanted.st_ino)


def _status(path: str) -> _LoopInfo | None:
    """None: the device is gone, or attached to no file."""
    try:
        device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = _LoopInfo()
        fcntl.ioctl(device, _LOOP_GET_STATUS64, status)
    except OSError:
        return None
    finally:
        os.close(device)
    return status


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
