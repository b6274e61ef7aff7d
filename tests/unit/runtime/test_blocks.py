"""Blocks of host ids: each has one runtime, and they leave no id or address out and none twice."""

from __future__ import annotations

import pytest

from cloister.errors import ConflictError
from cloister.network.plan import MAX_SLOT
from cloister.runtime.blocks import BLOCKS, IDS_PER_SLOT, SLOTS_PER_BLOCK, Blocks, slot_number


def test_a_block_has_one_runtime_at_a_time() -> None:
    """The lowest free one is given out, and one that is given back is free again."""
    blocks = Blocks(0)
    assert [blocks.take("one"), blocks.take("other")] == [0, 1]
    with pytest.raises(ConflictError, match="'one'"):
        blocks.hold("other", 0)
    blocks.give(0)
    blocks.hold("other", 0)
    assert blocks.take("one") == 2
    assert blocks.free() == BLOCKS - 3


def test_blocks_run_out() -> None:
    """There is none to take then."""
    blocks = Blocks(0)
    assert [blocks.take("one") for _ in range(BLOCKS)] == list(range(BLOCKS))
    assert blocks.take("one") is None


def test_slots_of_blocks_do_not_overlap() -> None:
    """Each has ids of its own, above those of the host's own processes, and an address that the network has."""
    numbers = [slot_number(block, slot) for block in range(BLOCKS) for slot in range(SLOTS_PER_BLOCK + 1)]
    assert len(set(numbers)) == len(numbers)
    assert max(slot_number(BLOCKS - 1, slot) for slot in range(1, SLOTS_PER_BLOCK + 1)) <= MAX_SLOT
    assert Blocks(1000).first_id(min(numbers)) == 1000 + IDS_PER_SLOT
