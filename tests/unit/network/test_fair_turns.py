"""Turns of users who wait: one of each in a circle."""

from __future__ import annotations

import asyncio

import pytest

from cloister.network.limits import FairTurns


async def _take(turns: FairTurns, user: str, order: list[str], go_on: asyncio.Event) -> None:
    async with turns.turn(user):
        order.append(user)
        await go_on.wait()


async def test_those_who_wait_get_their_turn_in_a_circle() -> None:
    """The many turns of one user are before another's at most once."""
    turns, order, go_on = FairTurns(1), list[str](), asyncio.Event()
    tasks = []
    for user in ("a", "a", "a", "b", "c", "b"):
        tasks.append(asyncio.create_task(_take(turns, user, order, go_on)))
        await asyncio.sleep(0)
    assert order == ["a"]
    go_on.set()
    await asyncio.gather(*tasks)
    assert order == ["a", "a", "b", "c", "a", "b"]


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_turn_that_is_given_up_is_passed_on(is_late: bool) -> None:
    """Whoever is cancelled while waiting, or at the moment at which the turn comes, keeps it from no other."""
    turns, order, go_on = FairTurns(1), list[str](), asyncio.Event()
    first, second = (asyncio.create_task(_take(turns, user, order, go_on)) for user in "ab")
    await asyncio.sleep(0)
    third = asyncio.create_task(_take(turns, "c", order, go_on))
    await asyncio.sleep(0)
    if is_late:
        go_on.set()
        await asyncio.sleep(0)  # the turn has come, and the task has not run since
    second.cancel()
    go_on.set()
    await asyncio.gather(first, third)
    assert order == ["a", "c"]
    async with asyncio.timeout(10), turns.turn("d"):
        pass
