"""Changes the images of CRIU so that a sandbox's whole tree can be restored below another pid 1.

A dump runs outside of the sandbox's user namespace, and a restore inside of one. So the image must not ask for a user namespace. A slot
has a pid 1 of its own. So the sandbox's pid 1 becomes an ordinary process, and still gets the orphans. The content of an image is
untrusted: this module reads numbers in bounded files and follows no name in them.
Source: the project's images/*.proto. Runs in: supervisor. Needs: nothing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from cloister.errors import RuntimeFailedError

__all__ = ["adopt_tree", "highest_pid"]

_MAX_BYTES = 16 << 20
"""Of an image that is changed; one has a few hundred bytes for each process."""
_COMMON_MAGIC, _SERVICE_MAGIC = 0x54564319, 0x55105940
"""One of them may come before the four bytes that say which kind of image a file is."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_Field = tuple[int, int, int | bytes]
"""Number, wire type, value."""
_PID, _PPID, _PGID, _SID, _THREADS = 1, 2, 3, 4, 5
_ROOT_IDS, _USER_NS, _TASK_CORE, _CHILD_SUBREAPER = 3, 10, 3, 18
_MEMFD_UID, _MEMFD_GID = 2, 3
_OF_A_PROCESS = ("core", "fs", "ids", "mm", "pagemap")


def adopt_tree(directory: Path, root: int) -> int:
    """Change a fresh image whose tree begins with process ``root``; gives the number of that process in the changed image."""
    inventory = _parse(_entries(_read(directory / "inventory.img"))[0])
    user_namespace = _number(_parse(_bytes(inventory, _ROOT_IDS)), _USER_NS)
    for path in sorted(directory.glob("ids-*.img")):
        _change(path, lambda fields: _set(fields, _USER_NS, user_namespace))
    for path in directory.glob("userns-*.img"):
        path.unlink()
    memfds = directory / "memfd.img"
    if memfds.exists():  # those of the runtime belong to the host's root, which the sandbox has no name for
        _change(memfds, lambda fields: _set(_set(fields, _MEMFD_UID, 0), _MEMFD_GID, 0))
    if root != 1:
        return root
    used = _pids(directory)
    fresh = next(number for number in range(2, len(used) + 3) if number not in used)
    _change(directory / "pstree.img", lambda fields: [_renamed(field, fresh) for field in fields])
    for kind in _OF_A_PROCESS:
        path = directory / f"{kind}-1.img"
        if path.exists():
            path.rename(directory / f"{kind}-{fresh}.img")
    _change(directory / f"core-{fresh}.img", _become_subreaper)
    return fresh


def highest_pid(directory: Path) -> int:
    """The highest number of a process, thread, group or session in the image."""
    return max(_pids(directory))


def _pids(directory: Path) -> set[int]:
    found: set[int] = set()
    for entry in _entries(_read(directory / "pstree.img")):
        for number, kind, value in _parse(entry):
            if number in (_PID, _PGID, _SID, _THREADS) and kind == _VARINT:
                found.add(int(value) if not isinstance(value, bytes) else 0)
            elif number == _THREADS and isinstance(value, bytes):
                found.update(_packed(value))
    return found


def _packed(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        number, at = _varint(data, at)
        yield number


def _renamed(field: _Field, fresh: int) -> _Field:
    number, kind, value = field
    if number == _THREADS and isinstance(value, bytes):
        return number, kind, b"".join(_written(fresh if one == 1 else one) for one in _packed(value))
    return (number, kind, fresh) if number in (_PID, _PPID, _PGID, _SID, _THREADS) and value == 1 else field


def _become_subreaper(fields: list[_Field]) -> list[_Field]:
    core = _set(_parse(_bytes(fields, _TASK_CORE)), _CHILD_SUBREAPER, 1)
    return [(number, kind, _join(core)) if number == _TASK_CORE else (number, kind, value) for number, kind, value in fields]


# ---- files of images: a head, then entries, each a length of four bytes and a message of protobuf ----


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise RuntimeFailedError(f"the image {path.name} is too large")
    return data


def _head_bytes(data: bytes) -> int:
    return 8 if data[:4] in (struct.pack("<I", _COMMON_MAGIC), struct.pack("<I", _SERVICE_MAGIC)) else 4


def _entries(data: bytes) -> list[bytes]:
    found, at = [], _head_bytes(data)
    while at < len(data):
        if len(data) - at < 4:
            raise RuntimeFailedError("an image is cut off")
        size = struct.unpack_from("<I", data, at)[0]
        at += 4
        if size > len(data) - at:
            raise RuntimeFailedError("an image is cut off")
        found.append(data[at : at + size])
        at += size
    return found


def _change(path: Path, change: Callable[[list[_Field]], list[_Field]]) -> None:
    data = _read(path)
    changed = [_join(change(_parse(entry))) for entry in _entries(data)]
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "wb") as file:
        file.write(data[: _head_bytes(data)] + b"".join(struct.pack("<I", len(entry)) + entry for entry in changed))


# ---- messages of protobuf, field by field: what is not known stays as it is ----


def _parse(data: bytes) -> list[_Field]:
    fields: list[_Field] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            fields.append((number, kind, value))
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(kind, len(data))
        if size > len(data) - at:
            raise RuntimeFailedError("an image has a damaged message")
        fields.append((number, kind, data[at : at + size]))
        at += size
    return fields


def _join(fields: list[_Field]) -> bytes:
    parts = []
    for number, kind, value in fields:
        parts.append(_written(number << 3 | kind))
        if isinstance(value, int):
            parts.append(_written(value))
        else:
            parts += [_written(len(value)), value] if kind == _BYTES else [value]
    return b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise RuntimeFailedError("an image has a damaged number")


def _written(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _set(fields: list[_Field], wanted: int, value: int) -> list[_Field]:
    """The fields with one number set; in ascending order, as an encoder writes them."""
    return sorted([field for field in fields if field[0] != wanted] + [(wanted, _VARINT, value)], key=lambda field: field[0])


def _number(fields: list[_Field], wanted: int) -> int:
    value = next((value for number, _kind, value in fields if number == wanted), None)
    if not isinstance(value, int):
        raise RuntimeFailedError(f"an image has no field {wanted}")
    return value


def _bytes(fields: list[_Field], wanted: int) -> bytes:
    value = next((value for number, _kind, value in fields if number == wanted), None)
    if not isinstance(value, bytes):
        raise RuntimeFailedError(f"an image has no field {wanted}")
    return value
