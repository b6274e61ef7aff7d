"""A pause and a copy that overlap, and an end that meets either, over a group that only remembers whether it is frozen."""

from __future__ import annotations

from typing import Any, cast

import pytest

from cloister.errors import DeadlineError, RuntimeFailedError
from cloister.runtime.stillness import Stillness


class Tree:
    """One group."""

    def __init__(self, *, is_frozen: bool = False) -> None:
        self.frozen = is_frozen
        self.resists = False

    def is_frozen(self, _name: str) -> bool:
        """As the kernel says."""
        return self.frozen

    is_to_freeze = is_frozen

    def freeze(self, _name: str, _timeout_s: float) -> None:
        """As CgroupTree."""
        self.frozen = not self.resists
        if self.resists:
            raise DeadlineError("it resists")

    def thaw(self, _name: str) -> None:
        """As CgroupTree."""
        self.frozen = False


def still(tree: Tree) -> Stillness:
    """Of that group."""
    return Stillness(cast("Any", tree), "s")


def test_a_copy_ends_and_the_processes_run() -> None:
    """Also when it fails."""
    tree = Tree()
    one = still(tree)
    with one.hold():
        assert tree.frozen
    assert not tree.frozen
    with pytest.raises(ZeroDivisionError), one.hold():
        raise ZeroDivisionError
    assert not tree.frozen


def test_a_pause_lasts_over_a_copy() -> None:
    """Whether it began before the copy or meanwhile."""
    tree = Tree()
    one = still(tree)
    one.keep()
    with one.hold():
        assert tree.frozen
    assert tree.frozen
    one.leave()
    assert not tree.frozen
    with one.hold():
        one.keep()
    assert tree.frozen


def test_a_resume_does_not_disturb_a_copy() -> None:
    """The processes run when the copy is complete."""
    tree = Tree()
    one = still(tree)
    one.keep()
    with one.hold():
        one.leave()
        assert tree.frozen
    assert not tree.frozen


def test_a_group_that_was_left_frozen_is_paused() -> None:
    """A copy of it leaves it so, and a resume thaws it."""
    tree = Tree(is_frozen=True)
    one = still(tree)
    with one.hold():
        pass
    assert tree.frozen
    one.leave()
    assert not tree.frozen


def test_one_that_resists_runs_on() -> None:
    """The next pause begins anew."""
    tree = Tree()
    one = still(tree)
    tree.resists = True
    with pytest.raises(DeadlineError):
        one.keep()
    with pytest.raises(DeadlineError), one.hold():
        raise AssertionError
    tree.resists = False
    one.keep()
    assert tree.frozen


def test_an_end_wins() -> None:
    """A pause that comes at the same time neither keeps the processes alive nor succeeds."""
    tree = Tree(is_frozen=True)
    one = still(tree)
    rounds: list[bool] = []

    def has_ended(_wait_s: float) -> bool:
        rounds.append(tree.frozen)
        tree.frozen = True  # by another thread
        return len(rounds) == 3

    assert one.end(has_ended, 60)
    assert rounds == [False] * 3
    with pytest.raises(RuntimeFailedError, match="being ended"):
        one.keep()
    assert not tree.frozen
    assert not one.end(lambda _wait_s: False, 0)
