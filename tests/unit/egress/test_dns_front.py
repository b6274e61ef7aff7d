"""The DNS front and the pins: allowed names only, the same addresses for a while, and none that is private."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from dnslib import RCODE

from cloister.model.network import ALL_ADDRESSES, EgressPolicy
from framework.dns_front_lab import SANDBOX, DnsFrontLab, dns_front_lab

_NAMES = EgressPolicy(public=True, names=("good.example", "*.below.example"), deny=(ALL_ADDRESSES,))


@pytest.fixture
async def lab() -> AsyncIterator[DnsFrontLab]:
    """A front, its lookups, and a resolver."""
    async with dns_front_lab() as made:
        yield made


@pytest.mark.parametrize("tcp", [False, True])
async def test_allowed_names_get_their_addresses(lab: DnsFrontLab, tcp: bool) -> None:
    """By UDP and TCP, in any case of letters, with a lifetime that was not shorter than the least."""
    lab.put(_NAMES)
    lab.resolver.ttl = 1
    lab.resolver.addresses = {"good.example": ("198.51.100.1", "198.51.100.2")}
    answer = await lab.ask("Good.EXAMPLE", tcp=tcp)
    assert [str(record.rdata) for record in answer.rr] == ["198.51.100.1", "198.51.100.2"]
    assert str(answer.q.qname) == "Good.EXAMPLE."
    assert 28 <= answer.rr[0].ttl <= 30


async def test_resolvers_of_the_policy_are_used(lab: DnsFrontLab) -> None:
    """``dns_servers`` replace the server's resolver; private ones and an empty list lead nowhere."""
    lab.resolver.addresses = {"good.example": ("198.51.100.1",)}
    for servers, found in ((("127.0.0.1",), ["198.51.100.1"]), (("10.0.0.1",), []), ((), [])):
        admitted = lab.put(EgressPolicy(public=True, names=("good.example",), deny=(ALL_ADDRESSES,), dns_servers=servers))
        assert await lab.addresses("good.example") == found
        assert all(source is None for _, source in lab.lookup.resolvers(admitted))
    assert len(lab.resolver.asked) == 1


async def test_a_sandbox_without_names_asks_for_all(lab: DnsFrontLab) -> None:
    """Where names are not limited, questions pass to the server's resolver under the sandbox's own id."""
    lab.put(EgressPolicy(public=True, names=("good.example",)))
    lab.resolver.addresses = {"any.test": ("198.51.100.1",)}
    assert await lab.addresses("any.test") == ["198.51.100.1"]
    assert (await lab.ask("none.test", "TXT")).header.rcode == RCODE.NXDOMAIN


async def test_many_questions_for_one_name_are_one(lab: DnsFrontLab) -> None:
    """Questions for a name that is being looked up wait for that answer."""
    lab.put(_NAMES)
    lab.resolver.addresses = {"good.example": ("198.51.100.1",)}
    found = await asyncio.gather(*(lab.lookup.resolve(SANDBOX, "good.example") for _ in range(50)))
    assert {tuple(map(str, addresses)) for addresses in found} == {("198.51.100.1",)}
    assert len(lab.resolver.asked) == 1
