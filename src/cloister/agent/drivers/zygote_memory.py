"""The memory of a zygote: arranges it so that forked children share it for long, and checks it for things that they must not share.

The agent's zygote and the Python kernel's share this module, so it needs only the standard library and runs on any Python 3.9 or newer.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from types import CodeType

__all__ = ["faults", "settle"]

_HIGHEST_FD = 5
"""The last descriptor that the contract gives a zygote."""
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
_HUGE_PAGE = 2 << 20
_IMMORTAL = 0xFFFFFFFF
"""The low half of an immortal object's reference count."""
_MARKED_SO = ((3, 12), (3, 13))


def settle() -> None:
    """Prepare the memory for sharing: collect garbage now, and use huge pages, which halve the time of a fork."""
    gc.collect()
    _make_immortal()
    gc.freeze()
    libc = ctypes.CDLL(None)
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        lines = maps.read().splitlines()
    for line in lines:
        place, rights, _, _, inode, *name = line.split(None, 5)
        start, end = (int(part, 16) for part in place.split("-"))
        if rights == "rw-p" and inode == "0" and name in ([], ["[heap]"]) and end - start >= _HUGE_PAGE:
            for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE):
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)


def _make_immortal() -> None:
    """Stop reference counting of the shared objects: each count would copy a page in a child.

    They become PEP 683's immortal objects, which an interpreter neither counts nor frees. Only for versions whose mark is known.
    Source: CPython's Include/object.h.
    """
    with_lock = getattr(sys, "_is_gil_enabled", lambda: True)()  # without the lock, reference counts are in other fields
    if sys.implementation.name != "cpython" or sys.version_info[:2] not in _MARKED_SO or not with_lock:
        return
    left = gc.get_objects()
    seen = set(map(id, left))
    while left:
        found = [one for one in _held_by(left.pop()) if id(one) not in seen]
        seen.update(map(id, found))
        left += found
    for address in seen:
        ctypes.c_uint32.from_address(address).value = _IMMORTAL


def _held_by(one: object) -> list[object]:
    """The objects that it refers to. The collector asks no code object: that holds no cycle."""
    if isinstance(one, CodeType):
        return [one.co_consts, one.co_names, one.co_filename, one.co_name, one.co_qualname, one.co_linetable, one.co_exceptiontable]
    return gc.get_referents(one)


def faults() -> list[str]:
    """The reasons why this process must not fork children."""
    tasks = len(os.listdir("/proc/self/task"))
    found = [f"{tasks} threads"] if tasks != 1 else []
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        found += [f"a shared writable mapping ({line.strip()})" for line in maps if line.split()[1] in ("rw-s", "rwxs", "-w-s")]
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the listing's own descriptor
        if int(name) > _HIGHEST_FD:
            found.append(f"descriptor {name} ({target})")
    return found
