"""Directories stay locked while they have a user."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from cloister.linux.treelocks import TreeLocks, try_lock


def is_held(directory: Path) -> bool:
    """Whether a remover must leave it."""
    claim = try_lock(directory)
    if claim is not None:
        os.close(claim)
    return claim is None


def test_directory_is_held_until_its_last_user_gives_it(tmp_path: Path) -> None:
    """However often it was taken."""
    locks = TreeLocks()
    locks.lock([tmp_path, tmp_path])
    locks.unlock([tmp_path])
    assert is_held(tmp_path)
    locks.unlock([tmp_path])
    assert not is_held(tmp_path)


def test_all_or_nothing_is_taken(tmp_path: Path) -> None:
    """One that is not there lets the others go."""
    locks = TreeLocks()
    with pytest.raises(FileNotFoundError):
        locks.lock([tmp_path, tmp_path / "missing"])
    assert not is_held(tmp_path)


def test_holder_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    """Its descriptors go with it."""
    locks = TreeLocks()
    locks.lock([tmp_path])
    assert is_held(tmp_path)
    del locks
    gc.collect()
    assert not is_held(tmp_path)
