"""Namespaces of the calling process, and mounts in them. Only for programs of one thread: a thread alone would leave its process.

No policy. Runs in: helper programs of the supervisor. Needs: as each call. Source: setns(2), unshare(2), mount(2), move_mount(2).
"""

from __future__ import annotations

import ctypes
import os
from enum import IntFlag
from pathlib import Path

from cloister.linux.syscall import call

__all__ = ["MountOption", "Namespace", "attach_mount", "become_ids", "bind", "enter", "leave", "make_mounts_private", "mount"]

_MOVE_MOUNT = 429
_AT_FDCWD = -100
_FROM_EMPTY_PATH = 0x4
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace(IntFlag):
    """Kinds of namespaces. Source: clone(2)."""

    MOUNT = 0x00020000
    USER = 0x10000000


class MountOption(IntFlag):
    """Flags of mount(2)."""

    NONE = 0
    READ_ONLY = 1
    NO_SUID = 2
    NO_DEV = 4
    NO_EXEC = 8


_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 1 << 18


def leave(kinds: Namespace) -> None:
    """Enter new namespaces of these kinds. Raises: OSError."""
    _check(_libc.unshare(int(kinds)), "unshare")


def enter(fd: int, kind: Namespace) -> None:
    """Enter the namespace of a descriptor. Raises: OSError."""
    _check(_libc.setns(fd, int(kind)), "setns")


def become_ids(uid: int, gid: int) -> None:
    """Take these ids, which a user namespace that was just entered maps, without any other group. Raises: OSError."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def make_mounts_private() -> None:
    """Let no mount or unmount here be seen elsewhere, nor the reverse. Raises: OSError."""
    _mount(None, "/", None, _RECURSIVE | _PRIVATE, None)


def mount(kind: str, target: Path, options: str, flags: MountOption = MountOption.NONE) -> None:
    """Mount a new file system. Raises: OSError."""
    _mount(kind, str(target), kind, int(flags), options)


def bind(source: Path, target: Path) -> None:
    """Show the mount of ``source``, without those below it, at ``target``. Raises: OSError."""
    _mount(str(source), str(target), None, _BIND, None)


def attach_mount(fd: int, target: Path) -> None:
    """Attach a detached mount. Raises: OSError."""
    call(_MOVE_MOUNT, fd, b"", _AT_FDCWD, os.fsencode(target), _FROM_EMPTY_PATH)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    _check(_libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]), target)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
