"""Names that sandboxes looked up: the newest before a connection, of the sandbox itself, within bounds."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from cloister.model.connection import LookUp
from cloister.network import looked_up
from cloister.network.dns_messages import HTTPS, NXDOMAIN, A, make_query, render_answer
from cloister.network.looked_up import LookedUpNames, LookupBuffer, look_up_of

CLIENT, WEB = "10.200.0.5", "198.51.100.80"


def found(at: float, name: str, *addresses: str) -> LookUp:
    """A look-up of the client's."""
    return LookUp(CLIENT, at, name, addresses or (WEB,))


def test_a_look_up_is_an_answer_with_addresses() -> None:
    """Other types, answers without an address, and what is no answer to the question tell nothing."""
    query = make_query(7, "api.example.com", A)
    answer = render_answer(query, [IPv4Address(WEB)], 60)
    assert look_up_of(CLIENT, query, answer, 5.0) == found(5.0, "api.example.com")
    assert look_up_of(CLIENT, query, render_answer(query, (), 0, NXDOMAIN), 5.0) is None
    assert look_up_of(CLIENT, make_query(7, "other.example.com", A), answer, 5.0) is None
    assert look_up_of(CLIENT, make_query(7, "api.example.com", HTTPS), answer, 5.0) is None
    for damaged in (b"", answer[:20], b"\xff" * 40):
        assert look_up_of(CLIENT, query, damaged, 5.0) is None


def test_a_connection_has_the_newest_name_before_it() -> None:
    """A name that is looked up later is none of its, and one that is looked up again was known all the time."""
    names = LookedUpNames()
    names.note("one", found(10, "a.example"))
    names.note("one", found(20, "b.example"))
    names.note("one", found(30, "b.example", WEB, "198.51.100.81"))
    assert [names.name("one", WEB, when) for when in (9, 15, 25, 99)] == [None, "a.example", "b.example", "b.example"]
    assert [names.name("one", "198.51.100.81", when) for when in (29, 31)] == [None, "b.example"]
    assert names.name("two", WEB, 99) is None


def test_names_are_bounded_for_each_sandbox_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox loses its oldest, and of all the one that looked up nothing for the longest time loses its own."""
    monkeypatch.setattr(looked_up, "ADDRESSES_PER_SANDBOX", 4)
    monkeypatch.setattr(looked_up, "ADDRESSES", 8)
    names = LookedUpNames()
    for number in range(6):
        names.note("greedy", found(1, "a.example", f"198.51.100.{number}"))
    assert [names.name("greedy", f"198.51.100.{number}", 2) is None for number in range(6)] == [True, True] + [False] * 4
    names.note("old", found(1, "a.example"))
    names.note("greedy", found(1, "a.example", "198.51.100.9"))
    names.note("new", found(1, "a.example", *(f"203.0.113.{number}" for number in range(4))))
    assert [names.name(sandbox, address, 2) is None for sandbox, address in (("old", WEB), ("new", "203.0.113.0"))] == [True, False]


def test_a_flood_of_look_ups_is_not_told_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal ones count once; one client leaves room for others."""
    monkeypatch.setattr(looked_up, "PER_CLIENT", 2)
    buffer = LookupBuffer()
    for number in (1, 1, 2, 3, 4):
        buffer.add(found(number, f"{number}.example"))
    buffer.add(LookUp("10.200.0.6", 5, "a.example", (WEB,)))
    assert [(one.client, one.name) for one in buffer.take()] == [(CLIENT, "1.example"), (CLIENT, "2.example"), ("10.200.0.6", "a.example")]
    assert buffer.take() == ()
