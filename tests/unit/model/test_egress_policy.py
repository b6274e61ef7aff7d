"""The egress policy of a sandbox, and its form in files."""

from __future__ import annotations

import json

import pytest

from cloister.model.host_patterns import best_match
from cloister.model.network import ALL_ADDRESSES, NO_EGRESS, PUBLIC_EGRESS, EgressPolicy, EgressProxy, HeaderRule
from cloister.model.secret import Secret

RICH = EgressPolicy(
    public=True,
    allow=("192.0.2.0/24",),
    names=("example.com", "*.example.org"),
    deny=(ALL_ADDRESSES,),
    dns_servers=("192.0.2.53",),
    rules=(HeaderRule(host="api.example.com", headers={"Authorization": "Bearer ${e2b.secrets.key}"}),),
    proxy=EgressProxy(address="proxy.example.com:1080", username="u", password=Secret("p"), tls=True),
)


@pytest.mark.parametrize("policy", [PUBLIC_EGRESS, NO_EGRESS, RICH])
def test_policy_is_read_back_as_it_was(policy: EgressPolicy) -> None:
    """Its JSON form says everything about it."""
    assert EgressPolicy.from_json(json.loads(json.dumps(policy.to_json()))) == policy


def test_policies_of_today() -> None:
    """By default a sandbox reaches public addresses; without them it reaches no address."""
    assert EgressPolicy(public=True) == PUBLIC_EGRESS
    assert (PUBLIC_EGRESS.is_closed, NO_EGRESS.is_closed) == (False, True)


@pytest.mark.parametrize("data", [{}, {"public": "no"}, {"public": 0}, {"public": None}, {"public": True, "quotas": ["10.0.0.0/8"]}])
def test_policy_that_is_not_understood_is_not_weakened(data: dict[str, object]) -> None:
    """A missing, malformed or unknown term is an error, so that no restriction is lost on the way."""
    with pytest.raises((TypeError, KeyError)):
        EgressPolicy.from_json(data)


@pytest.mark.parametrize(
    ("policy", "closed", "resolves", "gate"),
    [
        (EgressPolicy(public=True, deny=("192.0.2.0/24",)), False, True, False),
        (EgressPolicy(public=True, deny=(ALL_ADDRESSES,)), True, False, False),
        (EgressPolicy(public=True, deny=(ALL_ADDRESSES,), allow=("192.0.2.1/32",)), False, False, False),
        (EgressPolicy(public=False, allow=("192.0.2.1/32",)), False, False, False),
        (EgressPolicy(public=True, deny=(ALL_ADDRESSES,), allow=(ALL_ADDRESSES,)), False, True, False),
        (EgressPolicy(public=True, deny=(ALL_ADDRESSES,), names=("example.com",)), False, True, True),
        (EgressPolicy(public=True, rules=(HeaderRule(host="a.b", headers={}),)), False, True, True),
    ],
)
def test_what_a_policy_needs(policy: EgressPolicy, closed: bool, resolves: bool, gate: bool) -> None:
    """Whether it closes everything, looks up names, and passes connections through the egress process."""
    assert (policy.is_closed, policy.resolves, policy.needs_gate) == (closed, resolves, gate)


def test_patterns_of_names() -> None:
    """A name is itself, a wildcard every name below it and not the name, a star everything; letters have no case."""
    assert best_match(["Example.com"], "eXample.COM")
    assert best_match(["example.com"], "a.example.com") is None
    assert best_match(["*.example.com"], "a.b.Example.com")
    assert best_match(["*.example.com"], "example.com") is None
    assert best_match(["*.example.com"], ".example.com") is None
    assert best_match(["example.com"], "example.com.") is None
    assert best_match(["*"], "x")
    assert best_match(["*"], "") is None
    assert best_match(["*.b.c", "*.c", "*", "a.b.c"], "a.b.c") == "a.b.c"
    assert best_match(["*", "*.c", "*.b.c"], "x.b.c") == "*.b.c"
    assert best_match(["*.c"], "c") is None
