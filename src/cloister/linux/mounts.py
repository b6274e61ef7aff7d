"""Detached mounts: created and configured by descriptor, never attached to the host's tree.

A detached mount lives as long as its descriptor or the sandbox that attached it. A crash of the supervisor therefore leaves none (I8).
Runs in: supervisor. Needs: CAP_SYS_ADMIN in the initial user namespace.
Source: mount_setattr(2), open_tree(2), fsopen(2), Linux 5.12 to 5.19.
"""

from __future__ import annotations

import ctypes
import os
from enum import IntFlag
from pathlib import Path

from cloister.linux.syscall import call

__all__ = ["MountFlag", "clone_tree", "make_read_only", "map_mount", "mount_filesystem"]

_OPEN_TREE, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 430, 431, 432, 442
_OPEN_TREE_CLONE = 1
_AT_EMPTY_PATH = 0x1000
_AT_FDCWD = -100
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6


class MountFlag(IntFlag):
    """Attributes of a mount. Source: mount_setattr(2)."""

    NONE = 0
    READ_ONLY = 0x1
    NO_SUID = 0x2
    NO_DEV = 0x4
    NO_EXEC = 0x8


_IDMAP = 0x100000


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _set_attributes(fd: int, flags: MountFlag, userns_fd: int | None) -> None:
    attributes = _MountAttr(int(flags) | (_IDMAP if userns_fd is not None else 0), 0, 0, userns_fd or 0)
    call(_MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), ctypes.sizeof(attributes))


def clone_tree(path: Path | str, flags: MountFlag, *, userns_fd: int | None = None) -> int:
    """A detached copy of the mount at ``path``, not recursive; the caller closes the descriptor.

    With ``userns_fd`` the mount is id-mapped: ids 0..65535 on disk appear as the ids to which that user namespace maps them.

    Raises: OSError.
    """
    fd = call(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), _OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        _set_attributes(fd, flags, userns_fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def map_mount(fd: int, userns_fd: int) -> None:
    """Make a detached mount id-mapped, as :func:`clone_tree` does. The kernel allows it once. Raises: OSError."""
    _set_attributes(fd, MountFlag.NONE, userns_fd)


def make_read_only(fd: int) -> None:
    """Make a detached mount read-only. Raises: OSError (EBUSY: a process writes by it)."""
    _set_attributes(fd, MountFlag.READ_ONLY, None)


def mount_filesystem(kind: str, source: str, options: tuple[str, ...], flags: MountFlag) -> int:
    """A detached mount of a new file system of type ``kind``; the caller closes the descriptor.

    Raises: OSError; its message includes the kernel's message if there is one.
    """
    context = call(_FSOPEN, kind.encode(), _FSOPEN_CLOEXEC)
    try:
        call(_FSCONFIG, context, _FSCONFIG_SET_STRING, b"source", source.encode(), 0)
        for option in options:
            key, equals, text = option.partition("=")
            if equals:
                call(_FSCONFIG, context, _FSCONFIG_SET_STRING, key.encode(), text.encode(), 0)
            else:
                call(_FSCONFIG, context, _FSCONFIG_SET_FLAG, key.encode(), None, 0)
        call(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        fd = call(_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    except OSError as error:
        raise OSError(error.errno, f"{kind} on {source}: {error.strerror}; {_kernel_log(context)}") from error
    finally:
        os.close(context)
    try:
        _set_attributes(fd, flags, None)
    except OSError:
        os.close(fd)
        raise
    return fd


def _kernel_log(context: int) -> str:
    try:
        return os.read(context, 4096).decode(errors="replace").strip()
    except OSError:  # ENODATA: the kernel has no message
        return ""
