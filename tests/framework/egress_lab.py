"""An egress gateway without a kernel's redirection: each connection to it says first where it was going, and a map leads there.

Runs on loopback, in the test's own event loop, without root.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from cloister.egress.connection import Connection, DialError, Interceptor, Upstream
from cloister.egress.gateway import Gateway, Parts
from cloister.egress.policies import PolicyTable
from cloister.egress.records import RecordBuffer
from cloister.egress.streams import ByteStream
from cloister.model.connection import ConnectionRecord
from cloister.model.network import EgressPolicy

__all__ = ["SANDBOX", "EgressLab", "Guest", "egress_lab", "listening", "served"]

SANDBOX = "127.0.0.5"
"""The source address of the laboratory's sandbox."""
_Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Guest:
    """The sandbox's end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Send ``data``."""
        self.writer.write(data)
        await self.writer.drain()

    async def is_reset(self) -> bool:
        """Wait until the connection ends or a byte comes; whether it ended without one."""
        try:
            return await asyncio.wait_for(self.reader.read(1), 10) == b""
        except ConnectionError:
            return True


@dataclass(eq=False)
class EgressLab:
    """A gateway with one sandbox, whose policy is set by :meth:`put`."""

    policies: PolicyTable = field(default_factory=PolicyTable)
    records: RecordBuffer = field(default_factory=RecordBuffer)
    servers: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    """Where the servers of the outside really listen, by address or name and port."""
    dialled: list[tuple[str, int]] = field(default_factory=list)
    address: tuple[str, int] = ("", 0)
    going_to: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    """Original destinations by the guest's own address."""
    gateway: Gateway | None = None
    _guests: list[Guest] = field(default_factory=list)

    async def dial(self, connection: Connection) -> Upstream:
        """Open a connection to the server that stands for the address or the name, as the verdict says."""
        assert connection.verdict is not None
        by_name = connection.verdict.is_by_name or connection.rule is not None
        place = (connection.name if by_name and connection.name else connection.original[0], connection.original[1])
        self.dialled.append(place)
        if place not in self.servers:
            raise DialError("connection_refused")
        sock = socket.create_connection(self.servers[place])
        sock.setblocking(False)
        return Upstream(ByteStream(sock), connection.original[0])

    def put(self, policy: EgressPolicy, sandbox_id: str = "sbx", source: str = SANDBOX) -> None:
        """Let the sandbox at ``source`` follow ``policy``."""
        self.policies.put(source, sandbox_id, policy)

    async def connect(self, address: str, port: int, source: str = SANDBOX) -> Guest:
        """A connection of the sandbox to ``address``, as the kernel would redirect it."""
        sock = socket.socket()
        sock.bind((source, 0))
        self.going_to[sock.getsockname()] = (address, port)
        sock.connect(self.address)  # the kernel answers, not the event loop
        sock.setblocking(False)
        guest = Guest(*await asyncio.open_connection(sock=sock))
        self._guests.append(guest)
        return guest

    async def close(self) -> None:
        """End all connections, and the servers' tasks with them."""
        for guest in self._guests:
            guest.writer.transport.abort()
        if self.gateway is not None:
            await self.gateway.stop()

    def take_records(self) -> list[ConnectionRecord]:
        """The records since the last call."""
        return [record for part in self.records.take() for record in part.records]


@contextlib.asynccontextmanager
async def egress_lab(
    interceptor: Interceptor | None = None,
    per_sandbox: int = 100,
    total: int = 1000,
    *,
    inspects: bool = False,
    intercepted_per_sandbox: int = 100,
    intercepted: int = 1000,
) -> AsyncIterator[EgressLab]:
    """A running laboratory."""
    lab = EgressLab()
    listener = socket.create_server(("127.0.0.1", 0))
    lab.address = listener.getsockname()
    parts = Parts(
        lab.policies,
        lab.dial,
        lab.records,
        interceptor,
        inspects,
        destination_of=lambda sock: lab.going_to[sock.getpeername()],
        per_sandbox=per_sandbox,
        total=total,
        intercepted_per_sandbox=intercepted_per_sandbox,
        intercepted=intercepted,
    )
    lab.gateway = Gateway(listener, parts)
    lab.gateway.start()
    try:
        yield lab
    finally:
        await lab.close()


@contextlib.asynccontextmanager
async def listening(serve: _Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, int]]:
    """A server on loopback; its address. The end of the block ends its connections and waits for their tasks."""
    tasks: list[asyncio.Task[None] | None] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.wait_for(asyncio.gather(*(task for task in tasks if task)), 10)


@contextlib.asynccontextmanager
async def served(lab: EgressLab, place: tuple[str, int], serve: _Serve) -> AsyncIterator[None]:
    """A server of the outside at ``place``, an address or a name and a port."""
    async with listening(serve) as lab.servers[place]:
        yield
