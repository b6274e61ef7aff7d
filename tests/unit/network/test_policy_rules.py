"""Policies as intervals and verdicts, compared with the rule that they stand for."""

from __future__ import annotations

import itertools
import random
from ipaddress import IPv4Address, IPv4Network

import pytest

from cloister.linux.conntrack import TrackedConnection
from cloister.model.network import ALL_ADDRESSES, NO_EGRESS, PUBLIC_EGRESS, EgressPolicy, EgressProxy, HeaderRule
from cloister.network.gate import DNS_PORT, TCP_PORT
from cloister.network.policy_rules import PolicyRules, intervals_of, policy_rules, refused_intervals

GATEWAY, FAR, OTHER = IPv4Address("10.200.32.1"), IPv4Address("198.51.100.2"), IPv4Address("203.0.113.9")
NAMES = EgressPolicy(public=True, names=("example.com",), allow=(f"{OTHER}/32",), deny=(ALL_ADDRESSES,))
RULES = EgressPolicy(public=True, rules=(HeaderRule(host="example.com", headers={}),))
PROXY = EgressPolicy(public=True, proxy=EgressProxy(address="proxy.example.com:1080"))
MUTE = EgressPolicy(public=False, allow=(f"{OTHER}/32",))


def random_networks(source: random.Random, count: int) -> tuple[str, ...]:
    """Networks that overlap, touch and repeat, in a small part of all addresses."""
    prefixes = [source.choice((24, 28, 30, 31, 32)) for _ in range(count)]
    return tuple(str(IPv4Network((0x0B000000 + source.randrange(1024), prefix), strict=False)) for prefix in prefixes)


def has(networks: tuple[str, ...], address: IPv4Address) -> bool:
    """Whether one of the networks has the address."""
    return any(address in IPv4Network(network) for network in networks)


@pytest.mark.parametrize("seed", range(30))
def test_intervals_are_what_the_lists_refuse(seed: int) -> None:
    """For random lists, and each address near them, the intervals agree with: allow, then deny, then public."""
    source = random.Random(seed)
    deny = random_networks(source, source.randrange(12)) + source.choice(((), (), (ALL_ADDRESSES,)))
    policy = EgressPolicy(public=source.random() < 0.7, allow=random_networks(source, source.randrange(12)), deny=deny)
    rules = PolicyRules(refused_intervals(policy))
    for number in (0, 0xFFFFFFFF, *range(0x0B000000 - 2, 0x0B000000 + 1300)):
        address = IPv4Address(number)
        refused = not has(policy.allow, address) and (not policy.public or has(policy.deny, address))
        assert rules.refuses(address) == refused, address


@pytest.mark.parametrize("seed", range(10))
def test_intervals_neither_overlap_nor_touch(seed: int) -> None:
    """The kernel refuses intervals that overlap."""
    source = random.Random(seed)
    policy = EgressPolicy(public=True, allow=random_networks(source, 50), deny=random_networks(source, 50))
    for found in (refused_intervals(policy), intervals_of(policy.deny)):
        assert all(first <= last for first, last in found)
        assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(found))


def test_sandboxes_without_lists_have_no_rules() -> None:
    """All public addresses, whether denied and allowed again or not; and none at all."""
    for policy in (PUBLIC_EGRESS, NO_EGRESS, EgressPolicy(public=True, allow=(f"{OTHER}/32",))):
        assert policy_rules(policy).is_empty
    assert policy_rules(EgressPolicy(public=True, allow=(ALL_ADDRESSES,), deny=(ALL_ADDRESSES,))).is_empty
    assert policy_rules(EgressPolicy(public=False, rules=RULES.rules)).is_empty, "a closed sandbox is not online"


def connection(to: IPv4Address, port: int, protocol: int = 6, *, by: int | None = None) -> TrackedConnection:
    """A connection; ``by`` is the port of the egress process that has it."""
    return TrackedConnection(protocol, to, port, GATEWAY if by else to, by or port)


DIRECT, RELAYED = connection(FAR, 443), connection(GATEWAY, 53, 17)
AT_GATE, ASKED_GATE = connection(FAR, 443, by=TCP_PORT), connection(FAR, 53, 17, by=DNS_PORT)


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (PUBLIC_EGRESS, {DIRECT, RELAYED, AT_GATE}),
        (NAMES, {AT_GATE, ASKED_GATE}),
        (RULES, {RELAYED, AT_GATE}),
        (PROXY, {RELAYED, AT_GATE}),
        (MUTE, set()),
    ],
)
def test_open_connections_stay_if_new_ones_would_go_the_same_way(policy: EgressPolicy, kept: set[TrackedConnection]) -> None:
    """Allowed ones, at the egress process or past it, and questions."""
    rules = policy_rules(policy)
    assert {one for one in (DIRECT, RELAYED, AT_GATE, ASKED_GATE) if rules.keeps(one, GATEWAY)} == kept


def test_what_lists_allow_stays_beside_names() -> None:
    """The egress process would pass it for its address too; but questions to a resolver there go through it."""
    rules = policy_rules(NAMES)
    assert rules.keeps(connection(OTHER, 443), GATEWAY)
    assert not rules.keeps(connection(OTHER, 53, 17), GATEWAY)
