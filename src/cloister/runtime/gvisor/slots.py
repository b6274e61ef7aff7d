"""The network slots of this runtime's sandboxes, and their host ids.

All sandboxes of a block have one range of host ids, the block's first: a saved sandbox can only be restored with the ids that it had. They
are kept apart by namespaces: each kernel runs without any power in a user namespace of its own, and each gofer as the root of another one.
Runs in: supervisor and builds, any thread. Needs: nothing.
"""

from __future__ import annotations

import threading

from cloister.errors import NoCapacityError
from cloister.runtime.blocks import SLOTS_PER_BLOCK, Blocks, slot_number

__all__ = ["Slots"]


class Slots:
    """Free and taken slots, by their number in the node. Thread-safe."""

    def __init__(self, blocks: Blocks, runtime: str) -> None:
        self._blocks = blocks
        self._runtime = runtime
        self._lock = threading.Lock()
        self._taken: dict[int, set[int]] = {}
        """By block."""

    def take(self) -> int:
        """A free slot. Raises: NoCapacityError."""
        with self._lock:
            for block, taken in self._taken.items():
                if len(taken) < SLOTS_PER_BLOCK:
                    return self._first_free(block)
            new = self._blocks.take(self._runtime)
            if new is None:
                raise NoCapacityError("no block of host ids is free for another sandbox", hint="kill sandboxes of another one")
            self._taken[new] = set()
            return self._first_free(new)

    def _first_free(self, block: int) -> int:
        numbers = (slot_number(block, slot) for slot in range(1, SLOTS_PER_BLOCK + 1))
        found = next(number for number in numbers if number not in self._taken[block])
        self._taken[block].add(found)
        return found

    def hold(self, slot: int) -> None:
        """Note that a slot is taken since before this start. Raises: ConflictError."""
        block = _block_of(slot)
        with self._lock:
            self._blocks.hold(self._runtime, block)
            self._taken.setdefault(block, set()).add(slot)

    def free(self, slot: int) -> None:
        """Take a slot back, and give its block back with the last one."""
        block = _block_of(slot)
        with self._lock:
            taken = self._taken[block]
            taken.discard(slot)
            if not taken:
                del self._taken[block]
                self._blocks.give(block)

    def has_room(self) -> bool:
        """Whether :meth:`take` has one to give."""
        with self._lock:
            return self._blocks.has_room(self._runtime) or any(len(taken) < SLOTS_PER_BLOCK for taken in self._taken.values())

    def a_first_id(self) -> int:
        """The first host id that the next sandbox will have, unless another block must be taken for it meanwhile."""
        slot = self.take()
        self.free(slot)
        return self.first_id(slot)

    def first_id(self, slot: int) -> int:
        """The first host id of the sandbox in this slot."""
        return self._blocks.first_id(slot_number(_block_of(slot), 0))


def _block_of(slot: int) -> int:
    return (slot - 1) // (SLOTS_PER_BLOCK + 1)
