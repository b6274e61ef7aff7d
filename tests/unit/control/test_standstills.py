"""The captures under way: one at a time of each sandbox, and others can wait for its end."""

from __future__ import annotations

import asyncio

import pytest

from cloister.control.standstills import Standstills
from cloister.errors import ConflictError


async def test_a_second_capture_is_refused_and_others_go_on() -> None:
    """The same sandbox conflicts, another one does not, and afterwards the first can be captured again."""
    standstills = Standstills()
    with standstills.one("a"), standstills.one("b"), pytest.raises(ConflictError, match="under way"), standstills.one("a"):
        pass
    with standstills.one("a"):
        pass


async def test_a_wait_ends_with_the_capture() -> None:
    """At once when there is none; a capture that follows at once is waited for too."""
    standstills = Standstills()
    await standstills.wait("a")
    with standstills.one("a"):
        waiting = asyncio.create_task(standstills.wait("a"))
        await asyncio.sleep(0)
        assert not waiting.done()
    with standstills.one("a"):
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting
