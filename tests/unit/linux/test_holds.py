"""Directories are held as long as somebody uses them."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from cloister.linux.holds import Holds, try_claim


def is_held(directory: Path) -> bool:
    """Whether a remover must leave it."""
    claim = try_claim(directory)
    if claim is not None:
        os.close(claim)
    return claim is None


def test_directory_is_held_until_its_last_user_gives_it(tmp_path: Path) -> None:
    """However often it was taken."""
    holds = Holds()
    holds.take([tmp_path, tmp_path])
    holds.give([tmp_path])
    assert is_held(tmp_path)
    holds.give([tmp_path])
    assert not is_held(tmp_path)


def test_all_or_nothing_is_taken(tmp_path: Path) -> None:
    """One that is not there lets the others go."""
    holds = Holds()
    with pytest.raises(FileNotFoundError):
        holds.take([tmp_path, tmp_path / "missing"])
    assert not is_held(tmp_path)


def test_holder_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    """Its descriptors go with it."""
    holds = Holds()
    holds.take([tmp_path])
    assert is_held(tmp_path)
    del holds
    gc.collect()
    assert not is_held(tmp_path)
