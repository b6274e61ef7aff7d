"""A bound for each user and for all, at which users with few uses come before those with many."""

from __future__ import annotations

from functools import partial

from cloister.network.limits import FairBound


def _taken(bound: FairBound, user: str, given_up: list[str], count: int = 1) -> list[object]:
    uses = [bound.take(user, partial(given_up.append, f"{user}{number}")) for number in range(count)]
    return [use for use in uses if use is not None]


def test_a_user_has_at_most_his_own_bound() -> None:
    """More are refused, and nothing is given up for them."""
    bound, given_up = FairBound(2, 10), list[str]()
    uses = _taken(bound, "a", given_up, 3)
    assert len(uses) == 2
    bound.give_back("a", uses[0])
    assert len(_taken(bound, "a", given_up, 2)) == 1
    assert not given_up


def test_the_user_with_the_most_gives_up_his_oldest() -> None:
    """Until all have the same number. Then a further use is refused."""
    bound, given_up = FairBound(10, 4), list[str]()
    _taken(bound, "a", given_up, 4)
    assert len(_taken(bound, "b", given_up, 3)) == 2
    assert given_up == ["a0", "a1"]
    assert len(_taken(bound, "c", given_up)) == 1
    assert len(given_up) == 3


def test_a_use_that_was_given_up_is_not_given_back_again() -> None:
    """Its owner gives it back too, which changes nothing; the bound is full again only with as many as before."""
    bound, given_up = FairBound(10, 2), list[str]()
    first, _ = _taken(bound, "a", given_up, 2)
    (other,) = _taken(bound, "b", given_up)
    bound.give_back("a", first)
    assert given_up == ["a0"]
    bound.give_back("b", other)
    assert len(_taken(bound, "c", given_up)) == 1
    assert given_up == ["a0"]


def test_nothing_is_kept_of_users_without_uses() -> None:
    """Memory does not grow with the number of users that there ever were."""
    bound, given_up = FairBound(2, 10), list[str]()
    for number in range(50):
        for use in _taken(bound, f"user{number}", given_up, 2):
            bound.give_back(f"user{number}", use)
    assert not bound._uses
    assert not bound._by_count
