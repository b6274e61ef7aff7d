"""Sends deliveries to the URLs of webhooks, which clients choose, so that none reaches a service of the host or of its networks.

The name is looked up once, by the server's own resolvers. Each address of the answer must be public, and the connection goes to these
addresses alone: a name that means another address a moment later changes nothing. Redirects are not followed. No proxy of the
environment is used. The answer's body is not read.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from cloister.errors import InvalidRequestError, UnavailableError
from cloister.network.egress import egress_networks
from cloister.processes.api_proxies import AddressLookup

__all__ = ["WebhookReceivers"]

_TIMEOUT_S = 10.0
"""For a whole attempt: look-up, connection, request and the head of the answer."""
_PROBE_PORT = 9


class WebhookReceivers:
    """Posts to public addresses, and to those of ``allowed`` networks (CIDR)."""

    def __init__(self, lookup: AddressLookup, allowed: Sequence[str], tls: ssl.SSLContext | None = None) -> None:
        self._lookup = lookup
        self._allowed = tuple(IPv4Network(text) for text in allowed)
        self._tls = tls or ssl.create_default_context()

    def check_host(self, host: str) -> None:
        """Check the host of a URL if it is an address. Raises: InvalidRequestError."""
        try:
            address = IPv4Address(host)
        except ValueError:
            return
        if not self._may_reach(address):
            raise InvalidRequestError(
                f"url: webhooks may not reach {host}", hint="give a public address, or ask the operator (webhook_allow_private)"
            )

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """See :class:`~cloister.control.deliveries.Receivers`."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await self._post(url, headers, body)
        except TimeoutError as error:
            raise UnavailableError(f"the receiver did not answer within {_TIMEOUT_S:g} s") from error
        except aiohttp.ClientError as error:
            raise UnavailableError(f"the receiver could not be reached: {type(error).__name__}") from error
        except (OSError, ValueError) as error:
            raise UnavailableError("the receiver could not be reached") from error

    async def _post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        host = urlsplit(url).hostname or ""
        addresses = await self._find(host)
        connector = aiohttp.TCPConnector(
            resolver=_Fixed(host, addresses), use_dns_cache=False, force_close=True, family=socket.AF_INET, ssl=self._tls
        )
        session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)
        async with session, session.post(URL(url), data=body, headers=headers, allow_redirects=False) as answer:
            return answer.status

    async def _find(self, host: str) -> list[str]:
        """The host's addresses. Raises: UnavailableError: there are none, or one of them is not public; the same for both."""
        found = [network.network_address for network in await self._lookup.find(host, host)]
        if not found or not all(map(self._may_reach, found)):
            raise UnavailableError(f"{host} does not resolve to public IPv4 addresses")
        return [str(address) for address in sorted(found)]

    def _may_reach(self, address: IPv4Address) -> bool:
        if any(address in network for network in self._allowed):
            return True
        network = IPv4Network(address)
        return egress_networks({network}, ()) == {network} and not _is_own(address)


def _is_own(address: IPv4Address) -> bool:
    """Whether the address is one of this host: packets to it would come from itself (ip(7)). Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), _PROBE_PORT))
        except OSError:
            return False
        return bool(probe.getsockname()[0] == str(address))


class _Fixed(AbstractResolver):
    """Resolves one name to addresses that were checked, and no other."""

    def __init__(self, host: str, addresses: Sequence[str]) -> None:
        self._host = host
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """The addresses. Raises: OSError: it is another name."""
        if host != self._host:
            raise OSError(f"{host} was not checked")
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [ResolveResult(hostname=host, host=text, port=port, family=family, proto=0, flags=numeric) for text in self._addresses]

    async def close(self) -> None:
        """There is nothing to close."""
