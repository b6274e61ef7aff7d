"""A guest and an upstream with the interceptor between them, on loopback sockets: no sandbox, no root."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from cloister.egress.connection import Connection, DialError, Upstream
from cloister.egress.inspection import InspectionError, inspect
from cloister.egress.intercept.contexts import GuestContexts, UpstreamContexts
from cloister.egress.intercept.interceptor import HeaderInterceptor
from cloister.egress.streams import ByteStream
from cloister.egress.verdicts import Judge, Verdict
from cloister.model.network import EgressPolicy, HeaderRule
from cloister.tls.sandbox_authority import authority_of

__all__ = [
    "HOST", "KEY", "SANDBOX_ID", "SECRET", "FakeValues", "InterceptLab", "Peer", "ScriptedUpstream", "Serve", "ask", "get", "known_values",
    "open_lab", "server_context",
]  # fmt: skip

HOST = "api.example.com"
SANDBOX_ID = "sandbox-a"
SECRET = b"s" * 32
KEY = "sk-1234"
UPSTREAM_AUTHORITY = authority_of(b"u" * 32, "upstream")
Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class FakeValues:
    """Fills placeholders from a dictionary, and counts the questions."""

    known: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None
    asked: int = 0

    async def values(self, sandbox_id: str, host: str, texts: tuple[str, ...]) -> tuple[str, ...]:
        """See :class:`ValueSource`."""
        self.asked += 1
        if self.error is not None:
            raise self.error
        return tuple(self._fill(text) for text in texts)

    def _fill(self, text: str) -> str:
        for name, value in self.known.items():
            text = text.replace(f"${{e2b.secrets.{name}}}", value)
        return text


def server_context(directory: Path, name: str = HOST, protocols: tuple[str, ...] = ("http/1.1",), *, authority: str = "") -> ssl.SSLContext:
    """A context for an upstream; its certificate is of an authority that the interceptor trusts, unless another one is named."""
    issuer = authority_of(b"x" * 32, authority) if authority else UPSTREAM_AUTHORITY
    file = directory / f"{name}.{authority}.pem"
    file.write_bytes(issuer.issue(name))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


@dataclass
class InterceptLab:
    """One interceptor. ``connections`` are those that it has served."""

    interceptor: HeaderInterceptor
    values: FakeValues
    rule: HeaderRule
    dial: Callable[[], Awaitable[ByteStream]]
    port: int
    listener: socket.socket
    connections: list[Connection] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def connect(
        self, name: str = HOST, protocols: tuple[str, ...] = ("http/1.1",), *, sandbox_id: str = SANDBOX_ID
    ) -> Peer:
        """A guest's TLS connection, which trusts the authority of its sandbox alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=authority_of(SECRET, sandbox_id).pem)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        host, port = self.listener.getsockname()
        return await asyncio.open_connection(host, port, ssl=context, server_hostname=name)

    async def connect_plain(self) -> Peer:
        """A guest's connection without TLS."""
        host, port = self.listener.getsockname()
        return await asyncio.open_connection(host, port)

    async def accept(self) -> None:
        """Serve guests until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self.listener)
            sock.setblocking(False)
            task = asyncio.create_task(self._serve(ByteStream(sock)))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _serve(self, client: ByteStream) -> None:
        async def open_upstream(_connection: Connection) -> Upstream:
            try:
                return Upstream(await self.dial(), "192.0.2.1")
            except OSError as error:
                raise DialError("connection_refused") from error

        judge = Judge(EgressPolicy(public=True, rules=(self.rule,)))
        connection = Connection(SANDBOX_ID, "192.0.2.7", ("192.0.2.1", self.port), client, judge=lambda: judge, open=open_upstream)
        try:
            found = await inspect(client, self.port)
        except (InspectionError, OSError):
            client.abort()
            return
        connection.name, connection.is_tls, connection.rule = found.name, found.is_tls, self.rule
        connection.verdict = Verdict(is_allowed=True, rule="public")
        self.connections.append(connection)
        try:
            await self.interceptor.intercept(connection)
        except OSError as error:
            self.errors.append(error)
            connection.abort()
        except BaseException as error:
            self.errors.append(error)
            connection.abort()
            raise
        else:
            connection.close()


@contextlib.asynccontextmanager
async def open_lab(
    serve: Serve,
    context: ssl.SSLContext | None,
    *,
    headers: dict[str, str] | None = None,
    values: FakeValues | None = None,
) -> AsyncIterator[InterceptLab]:
    """A lab whose upstream is ``serve``, over TLS if there is a context."""
    upstream = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    address = upstream.sockets[0].getsockname()

    async def dial() -> ByteStream:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return ByteStream(sock)

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    values = values or FakeValues()
    interceptor = HeaderInterceptor(GuestContexts(SECRET), UpstreamContexts(UPSTREAM_AUTHORITY.pem), values)
    rule = HeaderRule(host=HOST, headers=headers if headers is not None else {"Authorization": "Bearer ${e2b.secrets.key}"})
    lab = InterceptLab(interceptor, values, rule, dial, 80 if context is None else 443, listener)
    accepting = asyncio.create_task(lab.accept())
    try:
        yield lab
    finally:
        tasks = [accepting, *lab.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in lab.connections:
            connection.abort()
        listener.close()
        upstream.close()
        await asyncio.sleep(0)


class ScriptedUpstream:
    """Answers each request head with the next answer, and keeps all bytes that came."""

    OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers) or [self.OK]
        self.received = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        for answer in self.answers:
            try:
                self.received += await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                self.received += error.partial
                break
            except ConnectionError:
                break
            writer.write(answer)
            await writer.drain()
        writer.close()


def known_values() -> FakeValues:
    """Knows the secret of the rule."""
    return FakeValues({"key": KEY})


async def ask(peer: Peer, request: bytes) -> bytes:
    """Send, and read until the connection ends."""
    reader, writer = peer
    writer.write(request)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer


def get(*lines: str, target: str = "/", method: str = "GET") -> bytes:
    """A request with more header lines."""
    head = [f"{method} {target} HTTP/1.1", f"Host: {HOST}", "Connection: close", *lines]
    return "\r\n".join([*head, "", ""]).encode()
