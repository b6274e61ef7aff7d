"""Looks up hosts that clients name, by the server's resolvers: their SOCKS5 proxies, and the receivers of their events.

For a proxy, the egress process asks again when it connects, and refuses private destinations itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from weakref import WeakValueDictionary

from cloister.errors import InvalidRequestError
from cloister.model.addresses import parse_listen, parse_upstream
from cloister.model.host_patterns import clean_name
from cloister.network.dns_addresses import ask_addresses
from cloister.network.dns_exchange import Resolver
from cloister.network.egress import egress_networks
from cloister.network.limits import FairBound

__all__ = ["AddressLookup", "ProxyLookup"]

_LOOKUP_S = 5.0
_AT_ONCE_OF_USER, _AT_ONCE = 4, 64
"""Lookups of one user, whose others wait, and of all."""


class AddressLookup:
    """Looks up addresses of hosts by the server's resolvers, as in the setting."""

    def __init__(self, upstreams: Sequence[str]) -> None:
        self._resolvers: list[Resolver] = [(parse_upstream(text), None) for text in upstreams]
        self._bound = FairBound(_AT_ONCE_OF_USER, _AT_ONCE)
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def find(self, host: str, user: str) -> set[IPv4Network]:
        """The IPv4 addresses of a name, or the address that ``host`` is; empty if there are none.

        The lookups for one ``user`` take turns. When all users together have too many, the one with the most gives up its oldest.
        """
        try:
            return {IPv4Network(IPv4Address(host))}
        except AddressValueError:
            name = clean_name(host.encode())
        if name is None:  # an IPv6 address
            return set()
        turn = self._turns.setdefault(user, asyncio.Semaphore(_AT_ONCE_OF_USER))
        try:
            async with asyncio.timeout(_LOOKUP_S), turn:
                return await self._ask(name, user)
        except TimeoutError:
            return set()

    async def _ask(self, name: str, user: str) -> set[IPv4Network]:
        use = self._bound.take(user, lambda: asking.cancel())  # noqa: PLW0108 - it is made below
        if use is None:
            return set()
        asking = asyncio.ensure_future(ask_addresses(self._resolvers, name))
        try:
            await asyncio.wait([asking])
            answer = None if asking.cancelled() else asking.result()
            return set() if answer is None else set(map(IPv4Network, answer.addresses))
        finally:
            asking.cancel()
            self._bound.give_back(user, use)


class ProxyLookup:
    """Decides by its address whether connections to a proxy may be made."""

    def __init__(self, allow_private: Sequence[str], lookup: AddressLookup) -> None:
        """``allow_private`` are the operator's networks (CIDR), as in the setting."""
        self._lookup = lookup
        self._allowed = tuple(IPv4Network(text) for text in allow_private)

    async def check(self, address: str, team_id: str) -> None:
        """Return if ``host:port``, which a client of the team sent, means public addresses only.

        Raises: InvalidRequestError: the same for a name that does not exist and for a private address, because a client must not learn
        the names of the host's own networks.
        """
        host, _ = parse_listen(address)
        found = await self._lookup.find(host, team_id)
        if not found or egress_networks(found, self._allowed) != found:
            raise InvalidRequestError(f"network.egressProxy.address: {host} does not resolve to a public IPv4 address")
