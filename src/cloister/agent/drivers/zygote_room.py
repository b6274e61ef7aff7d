"""Gives a zygote one piece of memory for small objects, before it imports anything: so huge pages fit it (zygote_memory.py).

It imports nothing, since a kernel's zygote must not import what a cold kernel has not. Both zygotes share it.
"""

__all__ = ["make_room"]

_SMALL_BYTES, _KEPT_EVERY = 415, 1000
"""Objects of 448 bytes, of which at least two of each MiB are kept: so the interpreter gives none of it back."""


def make_room(mib: int) -> "list[bytes]":
    """Have the interpreter take so much memory for small objects now. The caller keeps the answer as long as the process lives.

    It takes 1 MiB at a time, between the libraries that are loaded meanwhile, where no huge page fits. Taken at once it is one piece.
    """
    row = [bytes(_SMALL_BYTES) for _ in range((mib << 20) // _SMALL_BYTES)]
    return row[::_KEPT_EVERY]
