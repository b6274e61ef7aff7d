"""inotify through the C library: one queue, bytes to events. No policy.

Source: inotify(7).
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

__all__ = [
    "ATTRIB",
    "CREATE",
    "DELETE",
    "DELETE_SELF",
    "IGNORED",
    "IS_DIRECTORY",
    "MODIFY",
    "MOVED_FROM",
    "MOVED_TO",
    "MOVE_SELF",
    "OVERFLOW",
    "Inotify",
    "RawEvent",
    "parse_events",
]

MODIFY, ATTRIB, MOVED_FROM, MOVED_TO = 0x2, 0x4, 0x40, 0x80
CREATE, DELETE, DELETE_SELF, MOVE_SELF = 0x100, 0x200, 0x400, 0x800
OVERFLOW, IGNORED, IS_DIRECTORY = 0x4000, 0x8000, 0x40000000
_ONLY_DIRECTORY, _NO_FOLLOW, _NO_UNLINKED = 0x01000000, 0x02000000, 0x04000000
_WANTED = MODIFY | ATTRIB | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF
_HEADER = struct.Struct("=iIII")
_READ_BYTES = 256 << 10
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class RawEvent:
    """One event: the watch descriptor, the kind, the cookie that joins the two events of a rename, and the name in the directory."""

    wd: int
    mask: int
    cookie: int
    name: str


def parse_events(data: bytes) -> list[RawEvent]:
    """The events of one read."""
    found: list[RawEvent] = []
    offset = 0
    while offset < len(data):
        wd, mask, cookie, length = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        found.append(RawEvent(wd, mask, cookie, os.fsdecode(data[offset : offset + length].rstrip(b"\0"))))
        offset += length
    return found


class Inotify:
    """One queue of events. Owns its descriptor."""

    def __init__(self) -> None:
        self.fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise _error()

    def add(self, path: str, *, follow: bool) -> int:
        """Watch a directory; the calling thread's user must be able to read it. The same directory gives the same descriptor.

        Raises: OSError.
        """
        flags = _WANTED | _ONLY_DIRECTORY | _NO_UNLINKED | (0 if follow else _NO_FOLLOW)
        wd = _libc.inotify_add_watch(self.fd, os.fsencode(path), ctypes.c_uint32(flags))
        if wd < 0:
            raise _error()
        return int(wd)

    def remove(self, wd: int) -> None:
        """Stop watching; a directory that is gone is no error."""
        _libc.inotify_rm_watch(self.fd, wd)

    def read(self) -> list[RawEvent]:
        """The events so far; empty if there are none."""
        try:
            return parse_events(os.read(self.fd, _READ_BYTES))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Close the queue."""
        os.close(self.fd)


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
