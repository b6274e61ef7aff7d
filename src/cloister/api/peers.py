"""Identifies clients for bounds and records: by address, or by the header of a trusted proxy. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from aiohttp import web

__all__ = ["Peers"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_IPV6_PREFIX = 64
"""Prefix length of the smallest network that a customer gets: one client may use all its addresses."""


class Peers:
    """Knows the trusted proxies in front of the server, which forward requests of many clients.

    ``trusted`` are networks (CIDR). Raises: ValueError: one is malformed.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted = tuple(ipaddress.ip_network(text) for text in trusted)

    def bounded(self, address: str) -> str | None:
        """The key under which connections from ``address`` are counted; None for a trusted proxy."""
        parsed = _parse(address)
        return None if self._is_trusted(parsed) else _key(parsed)

    def of(self, request: web.BaseRequest) -> str:
        """The key of the client that sent ``request``."""
        return _key(self._client(request))

    def address(self, request: web.BaseRequest) -> str:
        """The address of the client that sent ``request``, for records."""
        return str(self._client(request) or "unknown")

    def _client(self, request: web.BaseRequest) -> _Address | None:
        """The last address in X-Forwarded-For that is no trusted proxy's, if a trusted proxy sent the request."""
        parsed = _parse(request.remote or "")
        if self._is_trusted(parsed):
            named = ",".join(request.headers.getall("X-Forwarded-For", []))
            for text in reversed(named.split(",")):
                client = _parse(text.strip())
                if client is None:
                    break
                parsed = client
                if not self._is_trusted(client):
                    break
        return parsed

    def _is_trusted(self, address: _Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted if network.version == address.version)


def _parse(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _key(address: _Address | None) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address), _IPV6_PREFIX), strict=False))
    return "unknown" if address is None else str(address)
