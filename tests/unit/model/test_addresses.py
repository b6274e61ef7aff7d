"""Addresses and ports in settings: what is read, and what is refused."""

from __future__ import annotations

import pytest

from cloister.errors import InvalidRequestError
from cloister.model.addresses import is_host_name, parse_listen, parse_upstream, told_domain


@pytest.mark.parametrize(
    ("domain", "port", "told"),
    [
        ("sbx.test:8443", 3000, "sbx.test:8443"),
        (None, 3000, "localhost:3000"),
        (None, 80, "localhost"),
        ("headers-only", 3000, "no-domain.invalid"),
    ],
)
def test_clients_are_always_told_a_domain(domain: str | None, port: int, told: str) -> None:
    """No setting leaves clients to their vendor's domain: they are told one of this machine, or one that no resolver knows."""
    assert told_domain(domain, port) == told


def test_upstreams_are_addresses() -> None:
    """Addresses with and without port, IPv4 and IPv6; names and nonsense are refused."""
    assert parse_upstream("192.0.2.1") == ("192.0.2.1", 53)
    assert parse_upstream("192.0.2.1:5300") == ("192.0.2.1", 5300)
    assert parse_upstream("2001:db8::1") == ("2001:db8::1", 53)
    assert parse_upstream("[2001:db8::1]:5300") == ("2001:db8::1", 5300)
    for nonsense in ("", "dns.example", "192.0.2.1:0", "192.0.2.1:99999", "192.0.2.1:x", "192.0.2.1:", "[2001:db8::1]x"):
        with pytest.raises(InvalidRequestError):
            parse_upstream(nonsense)


def test_listeners_have_a_host_and_a_port() -> None:
    """An address or a name and a port; anything else is refused."""
    assert parse_listen("127.0.0.1:0") == ("127.0.0.1", 0)
    assert parse_listen("[::1]:3000") == ("::1", 3000)
    assert parse_listen("localhost:3000") == ("localhost", 3000)
    for nonsense in ("", ":", "3000", ":3000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "1.2.3:80", "a b:80", "a:٣"):
        with pytest.raises(InvalidRequestError):
            parse_listen(nonsense)


def test_host_names() -> None:
    """Labels of letters, digits and inner hyphens; a name does not end in a number, for that would be an address."""
    assert all(is_host_name(name) for name in ("a", "localhost", "sandbox.example.com", "x--y.z9"))
    assert not any(is_host_name(name) for name in ("", "-a.b", "a-.b", "a..b", "a_b", "a b", "1.2.3", f"{'a' * 64}.b", "abc." * 64 + "a"))
