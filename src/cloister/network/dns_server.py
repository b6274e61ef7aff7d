"""Serves DNS on a UDP and a TCP socket, within bounds for each client; the owner of the server gives the answers.

Owns the two sockets, the connections and the questions in flight. A question beyond a bound gets SERVFAIL at once, a connection beyond one
is closed, and what is no question is dropped. At the bound for all, the client with the most gives up its oldest question or connection
for a client who has fewer, so that questions without an answer keep no other client from asking.
Invariant: an answer goes only to the address and port that asked.
Source: RFC 1035 (TCP length prefix), RFC 7766 (several questions on a connection).
Runs in: api process, resolver process of a build, egress process (asyncio). Needs: no capability.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cloister.network.dns_exchange import Ask, ask_tcp, ask_udp, failure
from cloister.network.dns_messages import is_query
from cloister.network.limits import FairBound

__all__ = ["DnsLimits", "DnsServer", "GiveAnswer"]

_TCP_IDLE_S = 20.0
_MAX_UDP_BYTES = 4096
_Address = tuple[str, int]
GiveAnswer = Callable[[str, bytes, Ask], Awaitable[bytes | None]]
"""The answer to a query of the client at an address, which came by UDP or TCP: the way to ask others. None: the client is not served."""


@dataclass(frozen=True)
class DnsLimits:
    """Bounds, for one client and for all: queries in flight, TCP connections."""

    queries_per_client: int = 128
    queries: int = 2048
    connections_per_client: int = 16
    connections: int = 512


class DnsServer:
    """Takes over its sockets, of which the TCP one listens."""

    def __init__(self, udp: socket.socket, tcp: socket.socket, answer: GiveAnswer, limits: DnsLimits | None = None) -> None:
        limits = limits or DnsLimits()
        self._udp, self._tcp = udp, tcp
        self._give_answer = answer
        self._queries = FairBound(limits.queries_per_client, limits.queries)
        self._connections = FairBound(limits.connections_per_client, limits.connections)
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to serve."""
        self._udp.setblocking(False)
        self._tcp.setblocking(False)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._receive), sock=self._udp)
        self._server = await asyncio.start_server(self._serve_tcp, sock=self._tcp)

    async def stop(self) -> None:
        """Close the sockets and drop the queries in flight. Idempotent."""
        if self._transport:
            self._transport.close()
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._transport = self._server = None
        for sock in (self._udp, self._tcp):  # they have no other owner if the start was cut off
            sock.close()

    async def _answer(self, client: str, query: bytes, ask: Ask) -> bytes | None:
        use = self._queries.take(client, lambda: giving.cancel())  # noqa: PLW0108 - it is made below
        if use is None:
            return failure(query)
        giving = asyncio.ensure_future(self._give_answer(client, query, ask))
        try:
            await asyncio.wait([giving])
            return failure(query) if giving.cancelled() else giving.result()
        finally:
            giving.cancel()
            self._queries.give_back(client, use)

    def _receive(self, query: bytes, client: _Address) -> None:
        if len(query) <= _MAX_UDP_BYTES and is_query(query):
            task = asyncio.get_running_loop().create_task(self._serve_udp(query, client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve_udp(self, query: bytes, client: _Address) -> None:
        answer = await self._answer(client[0], query, ask_udp)
        if answer is not None and self._transport and not self._transport.is_closing():
            self._transport.sendto(answer, client)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        client = writer.get_extra_info("peername")[0]
        use = self._connections.take(client, writer.transport.abort)
        try:
            while use is not None and await self._serve_tcp_query(client, reader, writer):
                pass
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass  # the client closed the connection or fell silent
        finally:
            if use is not None:
                self._connections.give_back(client, use)
            writer.close()

    async def _serve_tcp_query(self, client: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        async with asyncio.timeout(_TCP_IDLE_S):
            query = await reader.readexactly(struct.unpack("!H", await reader.readexactly(2))[0])
        answer = await self._answer(client, query, ask_tcp) if is_query(query) else None
        if answer is None:
            return False
        writer.write(struct.pack("!H", len(answer)) + answer)
        async with asyncio.timeout(_TCP_IDLE_S):
            await writer.drain()
        return True


class _Datagrams(asyncio.DatagramProtocol):
    """The UDP socket."""

    def __init__(self, received: Callable[[bytes, _Address], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: _Address) -> None:
        self._received(data, addr)
