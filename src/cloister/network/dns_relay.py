"""The sandboxes' resolver: relays their queries to the host's own resolvers, and the answers back.

Owns: the two sockets on the gateway's port 53 (:class:`~cloister.network.dns_server.DnsServer`).
Must not: answer by itself (except SERVFAIL), cache, or reveal one sandbox's queries to another.
Invariant: an answer goes only to the address and port that asked, with the id of the query. Every query leaves by a socket of its own (a
random port, connected to one upstream) under a random id. An answer counts only if id and question match, so a sandbox cannot forge an
answer to another sandbox's query. A query beyond a bound gets SERVFAIL at once, and one that no upstream answers in time gets it then.
Source: RFC 1035 (format, TCP length prefix), RFC 5452 (forgery resilience), RFC 7766 (TCP).
Runs in: the unprivileged api process, or the resolver process of a template build (asyncio). Needs: no capability.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path

from cloister.errors import InvalidRequestError
from cloister.model.addresses import is_address, parse_upstream
from cloister.network.dns_exchange import Ask, Resolver, pass_on
from cloister.network.dns_server import DnsLimits, DnsServer
from cloister.network.looked_up import LookupBuffer, look_up_of

__all__ = ["DnsRelay", "host_nameservers"]

LAST_S = 5.0
"""For the last upstream (:func:`~cloister.network.dns_exchange.ask_any`), as long as the C library waits for a resolver."""


def host_nameservers(path: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """The host's own resolvers; 127.0.0.1 if the file lists none, as in the C library, which also skips malformed addresses.

    A stub resolver on loopback works too: the relay asks from the host.

    Source: resolv.conf(5).
    """
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    words = (line.split("#")[0].split(";")[0].split() for line in lines)
    return tuple(found[1] for found in words if len(found) >= 2 and found[0] == "nameserver" and is_address(found[1])) or ("127.0.0.1",)


class DnsRelay:
    """The relay; owns the two sockets it is given."""

    def __init__(
        self,
        udp: socket.socket,
        tcp: socket.socket,
        upstreams: Sequence[str],
        limits: DnsLimits | None = None,
        look_ups: LookupBuffer | None = None,
    ) -> None:
        """``look_ups`` gets the names that clients looked up."""
        self._upstreams: list[Resolver] = [(parse_upstream(text), None) for text in upstreams]
        if not self._upstreams:
            raise InvalidRequestError("no upstream resolver is set")
        self._look_ups = look_ups
        self._server = DnsServer(udp, tcp, self._answer, limits)

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    async def stop(self) -> None:
        """Close the sockets and cancel queries in flight. Idempotent."""
        await self._server.stop()

    async def _answer(self, client: str, query: bytes, ask: Ask) -> bytes:
        """The answer of the first upstream that gives one; else SERVFAIL."""
        answer = await pass_on(query, self._upstreams, ask, LAST_S)
        if self._look_ups is not None and (look_up := look_up_of(client, query, answer, time.time())):
            self._look_ups.add(look_up)
        return answer
