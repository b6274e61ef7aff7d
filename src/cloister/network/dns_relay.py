"""The sandboxes' resolver: passes their questions to the host's own resolvers and the answers back, unread.

Owns: the two sockets on the gateway's port 53 and the queries in flight. Runs in: the unprivileged api process (asyncio).
Must not: answer from anything but an upstream's answer, cache, or reveal one sandbox's questions to another.
Invariant: an answer goes only to the address and port that asked, with the id that it asked with. Every question travels from a socket of
its own (a random port, connected to the one upstream) under a random id, and an answer counts only when id and question match; so no
sandbox can guess its way into another's answer. Every bound that is met, and every upstream failure, gives SERVFAIL at once or within
``TIMEOUT_S`` for each upstream. Source: RFC 1035 (format, TCP length prefix), RFC 5452 (forgery resilience), RFC 7766 (TCP).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cloister.errors import InvalidRequestError

__all__ = ["DnsLimits", "DnsRelay", "host_nameservers", "parse_upstream"]

TIMEOUT_S = 2.0
_TCP_IDLE_S = 20.0
_HEADER = 12
_MAX_UDP_BYTES = 4096
_SERVFAIL = 2
_Address = tuple[str, int]
_Ask = Callable[[_Address, bytes], Awaitable[bytes]]


class _QueryError(Exception):
    """A question that no upstream answered, or that may not be asked now."""


@dataclass(frozen=True)
class DnsLimits:
    """Bounds: questions in flight for one sandbox and for all, TCP connections for one sandbox and for all."""

    queries_per_client: int = 128
    queries: int = 2048
    connections_per_client: int = 16
    connections: int = 512


def host_nameservers(path: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """The host's own resolvers. A stub on loopback is fine: the relay asks from the host. None listed: 127.0.0.1, as the C library has it.

    Source: resolv.conf(5).
    """
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    words = (line.split("#")[0].split(";")[0].split() for line in lines)
    return tuple(found[1] for found in words if len(found) >= 2 and found[0] == "nameserver") or ("127.0.0.1",)


def parse_upstream(text: str) -> _Address:
    """``address``, ``address:port`` or ``[address]:port`` as (address, port).

    Raises: InvalidRequestError; names are refused, since there is nobody to resolve them.
    """
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "53"
    elif text.count(":") == 1:
        host, port = text.split(":")
    try:
        ip_address(host)
        number = int(port)
    except ValueError as error:
        raise InvalidRequestError(f"upstream resolver {text!r} is not an address or address:port") from error
    if not 0 < number < 65536:
        raise InvalidRequestError(f"upstream resolver {text!r}: port out of range")
    return host, number


def _question(message: bytes) -> bytes:
    """The question section in lower case, as far as it can be read; empty when there is none."""
    position = _HEADER
    try:
        for _ in range(struct.unpack_from("!H", message, 4)[0]):
            while message[position]:
                if message[position] > 63:
                    return b""
                position += message[position] + 1
            position += 5
    except IndexError:
        return b""
    return message[_HEADER:position].lower() if position <= len(message) else b""


def _is_query(message: bytes) -> bool:
    return len(message) >= _HEADER and not message[2] & 0x80 and bool(_question(message))


def _failure(query: bytes) -> bytes:
    question = query[_HEADER : _HEADER + len(_question(query))]
    flags = 0x8080 | (struct.unpack_from("!H", query, 2)[0] & 0x7900) | _SERVFAIL
    return query[:2] + struct.pack("!H", flags) + query[4:6] + bytes(6) + question


def _matches(query: bytes, answer: bytes) -> bool:
    return len(answer) >= _HEADER and answer[:2] == query[:2] and bool(answer[2] & 0x80) and _question(answer) in (_question(query), b"")


class _UdpQuestion(asyncio.DatagramProtocol):
    """One question on its way to one upstream."""

    def __init__(self, query: bytes, answer: asyncio.Future[bytes]) -> None:
        self._query, self._answer = query, answer

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 - the interface's; the socket is connected
        if not self._answer.done() and _matches(self._query, data):
            self._answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc)


async def _ask_udp(upstream: _Address, query: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(lambda: _UdpQuestion(query, answer), remote_addr=upstream)
    try:
        transport.sendto(query)
        return await answer
    finally:
        transport.close()


async def _ask_tcp(upstream: _Address, query: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*upstream)
    try:
        writer.write(struct.pack("!H", len(query)) + query)
        answer = await reader.readexactly(struct.unpack("!H", await reader.readexactly(2))[0])
    finally:
        writer.close()
    if not _matches(query, answer):
        raise _QueryError("the upstream answered another question")
    return answer


class _Bound:
    """Counts what is in use, by client and in all."""

    def __init__(self, per_client: int, total: int) -> None:
        self._per_client, self._total = per_client, total
        self._used: Counter[str] = Counter()

    @contextlib.contextmanager
    def one(self, client: str) -> Iterator[bool]:
        """Take one for the time of a ``with``; False when a bound is met."""
        if self._used[client] >= self._per_client or self._used.total() >= self._total:
            yield False
            return
        self._used[client] += 1
        try:
            yield True
        finally:
            self._used[client] -= 1
            if not self._used[client]:
                del self._used[client]


class DnsRelay:
    """The relay over two given sockets, which it owns from then on."""

    def __init__(self, udp: socket.socket, tcp: socket.socket, upstreams: Sequence[str], limits: DnsLimits | None = None) -> None:
        limits = limits or DnsLimits()
        self._udp, self._tcp = udp, tcp
        self._upstreams = [parse_upstream(text) for text in upstreams]
        if not self._upstreams:
            raise InvalidRequestError("no upstream resolver is set")
        self._queries = _Bound(limits.queries_per_client, limits.queries)
        self._connections = _Bound(limits.connections_per_client, limits.connections)
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Serve from now on."""
        self._udp.setblocking(False)
        self._tcp.setblocking(False)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _UdpClients(self._spawn_udp), sock=self._udp)
        self._server = await asyncio.start_server(self._serve_tcp, sock=self._tcp)

    async def stop(self) -> None:
        """Close the sockets and drop what is in flight. Idempotent."""
        if self._transport:
            self._transport.close()
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._transport = self._server = None

    async def _answer(self, client: str, query: bytes, ask: _Ask) -> bytes:
        """The first upstream's answer under the client's own id, or SERVFAIL."""
        with self._queries.one(client) as allowed:
            for upstream in self._upstreams if allowed else ():
                asked = secrets.token_bytes(2) + query[2:]
                with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, _QueryError):
                    async with asyncio.timeout(TIMEOUT_S):
                        answer = await ask(upstream, asked)
                    return query[:2] + answer[2:]
        return _failure(query)

    def _spawn_udp(self, query: bytes, client: _Address) -> None:
        if _is_query(query):
            task = asyncio.get_running_loop().create_task(self._serve_udp(query, client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve_udp(self, query: bytes, client: _Address) -> None:
        answer = await self._answer(client[0], query, _ask_udp)
        if self._transport and not self._transport.is_closing():
            self._transport.sendto(answer, client)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        client = writer.get_extra_info("peername")[0]
        try:
            with self._connections.one(client) as allowed:
                while allowed and await self._serve_tcp_query(client, reader, writer):
                    pass
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass  # the client went away or fell silent: nobody to tell
        finally:
            writer.close()

    async def _serve_tcp_query(self, client: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        async with asyncio.timeout(_TCP_IDLE_S):
            query = await reader.readexactly(struct.unpack("!H", await reader.readexactly(2))[0])
        if not _is_query(query):
            return False
        answer = await self._answer(client, query, _ask_tcp)
        writer.write(struct.pack("!H", len(answer)) + answer)
        async with asyncio.timeout(_TCP_IDLE_S):
            await writer.drain()
        return True


class _UdpClients(asyncio.DatagramProtocol):
    """The gateway's UDP socket."""

    def __init__(self, received: Callable[[bytes, _Address], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if len(data) <= _MAX_UDP_BYTES:
            self._received(data, addr)
