"""Slowing down wrong credentials: whom it concerns, and what it may cost."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from cloister.api import failures
from cloister.api.failures import Failures
from cloister.api.peers import Peers
from cloister.errors import TooManyFailuresError


def request_of(peer: str) -> web.BaseRequest:
    """A request of ``peer``."""
    return make_mocked_request("GET", "/").clone(remote=peer)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each delay was, which takes a turn of the loop only."""
    delays: list[float] = []
    turn = asyncio.sleep

    async def sleep(delay_s: float) -> None:
        delays.append(delay_s)
        await turn(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return delays


async def test_delays_grow_to_a_bound_and_are_forgiven(slept: list[float]) -> None:
    """The first failures are free; each further one waits a second longer, up to ten; time forgives them."""
    now = [100.0]
    noted = Failures(Peers(()), 3, lambda: now[0])
    for _ in range(3):
        await noted.note(request_of("192.0.2.1"))
    for _ in range(15):
        with pytest.raises(TooManyFailuresError):
            await noted.note(request_of("192.0.2.1"))
    assert slept == [*range(1, 11), *[10] * 5]
    await noted.note(request_of("192.0.2.2"))
    now[0] += 11
    await noted.note(request_of("192.0.2.1"))
    assert len(slept) == 15


async def test_addresses_are_forgotten_in_their_order(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses fail, few are remembered: those that failed last."""
    monkeypatch.setattr(failures, "_MAX_PEERS", 50)
    noted = Failures(Peers(()), 1, lambda: 100.0)
    noted._all = failures._Bucket(10**9, 1.0)
    for number in range(200):
        await noted.note(request_of(f"10.0.0.{number}"))
    assert len(noted._buckets) == 50
    with pytest.raises(TooManyFailuresError):
        await noted.note(request_of("10.0.0.199"))
    await noted.note(request_of("10.0.0.0"))
    assert slept == [1]


async def test_only_so_many_wait() -> None:
    """A failure for which there is no place to wait is answered at once, and its connection is closed."""
    noted = Failures(Peers(()), 1, lambda: 0.0)  # no second passes, in which one failure would be forgiven
    await noted.note(request_of("192.0.2.1"))
    waiting = [asyncio.create_task(noted.note(request_of("192.0.2.1"))) for _ in range(256)]
    await asyncio.sleep(0)
    refused = request_of("192.0.2.1")
    with pytest.raises(TooManyFailuresError):
        await noted.note(refused)
    refused.protocol.close.assert_called_once()  # type: ignore[attr-defined]  # a mock
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert not noted._waiting
