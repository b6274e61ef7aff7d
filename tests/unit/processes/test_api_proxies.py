"""The check of a client's proxy: its name means what the server's own resolvers say, and no private address."""

from __future__ import annotations

import socket

import pytest

from cloister.errors import InvalidRequestError
from cloister.processes.api_proxies import AddressLookup, ProxyLookup
from framework.dns_front_lab import dns_front_lab

_DEAD = "127.0.0.1:9"


@pytest.mark.parametrize("address", ["proxy.example:1080", "PROXY.example:1080", "198.51.100.7:1080"])
async def test_public_proxies_are_accepted(address: str) -> None:
    """A name is asked of the server's resolvers, one after another; an address needs no question."""
    async with dns_front_lab() as lab:
        lab.resolver.addresses = {"proxy.example": ("198.51.100.7",)}
        await ProxyLookup((), AddressLookup((_DEAD, f"127.0.0.1:{lab.resolver_port}"))).check(address, "team")
        assert [name for name, *_ in lab.resolver.asked] == (["proxy.example"] if "example" in address else [])


@pytest.mark.parametrize(
    "address", ["half.example:1080", "inside.example:1080", "none.example:1080", "localhost:1080", "10.1.2.3:1080", "[::1]:1080"]
)
async def test_others_are_refused_alike(address: str) -> None:
    """One private address is too many. Names of the host's own file, and those that do not exist, mean nothing."""
    async with dns_front_lab() as lab:
        lab.resolver.addresses = {"half.example": ("198.51.100.7", "10.0.0.1"), "inside.example": ("192.168.1.1",)}
        with pytest.raises(InvalidRequestError, match="does not resolve to a public IPv4 address"):
            await ProxyLookup((), AddressLookup((f"127.0.0.1:{lab.resolver_port}",))).check(address, "team")


async def test_the_operators_networks_are_accepted() -> None:
    """A proxy in a network of ``allow_private`` may be used."""
    async with dns_front_lab() as lab:
        lab.resolver.addresses = {"inside.example": ("192.168.1.1",)}
        await ProxyLookup(("192.168.1.0/24",), AddressLookup((f"127.0.0.1:{lab.resolver_port}",))).check("inside.example:1080", "team")


async def test_the_hosts_resolver_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library's look-up, which reads /etc/hosts, has no part in it."""
    monkeypatch.setattr(socket, "getaddrinfo", None)
    async with dns_front_lab() as lab:
        lab.resolver.addresses = {"proxy.example": ("198.51.100.7",)}
        await ProxyLookup((), AddressLookup((f"127.0.0.1:{lab.resolver_port}",))).check("proxy.example:1080", "team")
