"""Blocks of host ids and network slots, which the runtimes of one node share out.

A node has 15 blocks. A block has 513 ranges of 65,536 host ids: the first for a helper of the runtime, one for each of its 512 slots. The
number of a slot in the node fixes both the host ids and the network address of its sandbox (docs/architecture.md).
Invariant: a block belongs to one runtime at a time. A runtime that keeps blocks without a sandbox, to be quicker, gives them up when
another one needs them. Runs in: supervisor and builds, any thread. Needs: nothing.
"""

from __future__ import annotations

import threading
from typing import Protocol

from cloister.errors import ConflictError

__all__ = ["BLOCKS", "IDS_PER_SLOT", "SLOTS_PER_BLOCK", "BlockKeeper", "Blocks", "slot_number"]

BLOCKS = 15
SLOTS_PER_BLOCK = 512
IDS_PER_SLOT = 65_536


def slot_number(block: int, slot: int) -> int:
    """The number in the whole node, 1..8190, of slot 1..512 of a block. Slot 0 is the block's helper."""
    return block * (SLOTS_PER_BLOCK + 1) + 1 + slot


class BlockKeeper(Protocol):
    """A runtime that keeps blocks without a sandbox until they are needed."""

    def has_idle_block(self) -> bool:
        """Whether :meth:`give_idle_block` has one to give."""
        ...

    def give_idle_block(self) -> bool:
        """Give back the block that has been without a sandbox the longest; False when there is none."""
        ...


class Blocks:
    """The blocks of one node, whose first host id is ``uid_base``. Thread-safe."""

    def __init__(self, uid_base: int) -> None:
        self.uid_base = uid_base
        self._lock = threading.Lock()
        self._owners: dict[int, str] = {}
        self._keepers: dict[str, BlockKeeper] = {}

    def add_keeper(self, runtime: str, keeper: BlockKeeper) -> None:
        """Ask ``keeper`` of this runtime for idle blocks when another runtime needs one. Its own ones a runtime finds by itself."""
        self._keepers[runtime] = keeper

    def take(self, runtime: str) -> int | None:
        """Give the lowest free block to a runtime, if need be an idle one of another runtime; None when there is none."""
        number = self._take_free(runtime)
        if number is None and any(keeper.give_idle_block() for keeper in self._others(runtime)):
            number = self._take_free(runtime)
        return number

    def has_room(self, runtime: str) -> bool:
        """Whether :meth:`take` has one to give."""
        return self.free() > 0 or any(keeper.has_idle_block() for keeper in self._others(runtime))

    def _take_free(self, runtime: str) -> int | None:
        with self._lock:
            number = next((number for number in range(BLOCKS) if number not in self._owners), None)
            if number is not None:
                self._owners[number] = runtime
        return number

    def _others(self, runtime: str) -> list[BlockKeeper]:
        return [keeper for name, keeper in self._keepers.items() if name != runtime]

    def hold(self, runtime: str, number: int) -> None:
        """Note that a runtime has a block since before this start. Raises: ConflictError, when another one has it."""
        with self._lock:
            if self._owners.setdefault(number, runtime) != runtime:
                raise ConflictError(f"block {number} of host ids belongs to the runtime {self._owners[number]!r}")

    def give(self, number: int) -> None:
        """Take a block back. Nothing happens when it is free."""
        with self._lock:
            self._owners.pop(number, None)

    def free(self) -> int:
        """How many blocks are free."""
        with self._lock:
            return BLOCKS - len(self._owners)

    def first_id(self, slot: int) -> int:
        """The first host id of the slot with this number in the node."""
        return self.uid_base + slot * IDS_PER_SLOT
