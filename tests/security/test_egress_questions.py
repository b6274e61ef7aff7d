"""Sandboxes limited to names, and hostile resolvers: no data leaves in questions, and no answer leads to a private address.

Without a kernel's redirection and without root: :mod:`framework.dns_front_lab`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import IPv4Address

import pytest
from dnslib import RCODE

from cloister.egress.connection import DialError
from cloister.model.network import ALL_ADDRESSES, EgressPolicy
from framework.dns_front_lab import OTHER, SANDBOX, DnsFrontLab, dns_front_lab

_NAMES = EgressPolicy(public=True, names=("good.example", "*.below.example"), deny=(ALL_ADDRESSES,))


@pytest.fixture
async def lab() -> AsyncIterator[DnsFrontLab]:
    """A front, its lookups, and a resolver."""
    async with dns_front_lab() as made:
        yield made


@pytest.mark.parametrize(("name", "kind"), [("evil.example", "A"), ("below.example", "A"), ("good.example", "TXT"), ("good.example", "MX")])
async def test_sandbox_cannot_ask_for_other_names(lab: DnsFrontLab, name: str, kind: str) -> None:
    """No resolver hears of other names and types, so questions carry no data out."""
    lab.put(_NAMES)
    assert (await lab.ask(name, kind)).header.rcode == RCODE.REFUSED
    assert lab.resolver.asked == []
    refused = [(record.name, record.verdict) for part in lab.records.take() for record in part.records]
    assert refused == ([(name, "refused")] if kind == "A" else [])


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "192.168.1.1", "0.0.0.0"])
async def test_resolver_cannot_bind_a_name_to_a_private_address(lab: DnsFrontLab, address: str) -> None:
    """Private addresses are left out of an answer; a name without others does not exist, and a connection to it is refused."""
    lab.put(_NAMES)
    lab.resolver.addresses = {"good.example": (address, "198.51.100.1"), "x.below.example": (address,)}
    assert await lab.addresses("good.example") == ["198.51.100.1"]
    assert (await lab.ask("x.below.example")).header.rcode == RCODE.NXDOMAIN
    with pytest.raises(DialError, match="not_public"):
        await lab.lookup.resolve(SANDBOX, "x.below.example")


@pytest.mark.parametrize("fault", ["id", "question"])
async def test_forger_cannot_answer(lab: DnsFrontLab, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer with another id or question is not taken: the name has no address."""
    monkeypatch.setattr("cloister.network.dns_addresses.LAST_S", 0.2)
    lab.put(_NAMES)
    lab.resolver.addresses, lab.resolver.fault = {"good.example": ("198.51.100.1",)}, fault
    assert (await lab.ask("good.example")).header.rcode == RCODE.SERVFAIL


@pytest.mark.parametrize("kind", ["AAAA", "HTTPS", "SVCB"])
async def test_sandbox_cannot_learn_keys_of_encrypted_hellos(lab: DnsFrontLab, kind: str) -> None:
    """An allowed name exists, but has no record of these types."""
    for policy in (_NAMES, EgressPolicy(public=True, names=("good.example",))):
        lab.put(policy)
        if policy is _NAMES or kind != "AAAA":
            answer = await lab.ask("good.example", kind)
            assert (answer.header.rcode, answer.rr) == (RCODE.NOERROR, [])
    assert lab.resolver.asked == []


async def test_resolver_cannot_change_a_pinned_name(lab: DnsFrontLab) -> None:
    """Within its lifetime a name has the same addresses for questions and connections; each sandbox has pins of its own."""
    admitted = lab.put(_NAMES)
    lab.resolver.addresses = {"good.example": ("198.51.100.1",)}
    assert await lab.addresses("good.example") == ["198.51.100.1"]
    lab.resolver.addresses = {"good.example": ("198.51.100.66",)}
    assert list(await lab.lookup.resolve(SANDBOX, "good.example")) == [IPv4Address("198.51.100.1")]
    assert await lab.addresses("good.example") == ["198.51.100.1"]
    lab.put(_NAMES, OTHER)
    assert list(await lab.lookup.resolve(OTHER, "good.example")) == [IPv4Address("198.51.100.66")]
    assert [client for _, _, client in lab.resolver.asked] == [SANDBOX, OTHER]
    admitted.pins["good.example"] = type(admitted.pins["good.example"])((), 0.0)
    assert await lab.addresses("good.example") == ["198.51.100.66"]
