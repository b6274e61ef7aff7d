"""A node on another machine: a client of its gate (:mod:`cloister.cluster.gate`) that outlives gate and supervisor.

Owns the connections to the gate, and knows since when it is silent. Invariant: both sides know each other by certificates of the cluster's
authority, and the node by its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from cloister.cluster.base import NodeClient, NodeListener
from cloister.cluster.link import NodeLink
from cloister.cluster.session import NodeSession
from cloister.cluster.wire import BEAT_S, HEAD_BYTES, PROTOCOL, FarChannel, packed, raise_error, unpacked
from cloister.errors import CloisterError, NodeUnreachableError
from cloister.model.node import NodeInfo
from cloister.nodewire.framing import ChannelClosedError, Message, ProtocolError
from cloister.nodewire.methods import Method, NodeEvent

__all__ = ["Answer", "FarStream", "NodeAddress", "RemoteNode"]

Answer = Callable[[str], Awaitable[str]]
"""The answer to a question of the egress process, one line each (:mod:`cloister.egresswire.values`)."""

_CONNECT_S = 5.0
_OPEN_S = 15.0
"""For the gate to connect into the machine: it tries a closed port several times."""
_SPARES = 2
SPARE_S = 40.0
"""A connection that waited for longer is not used: the gate ends it soon (``cluster/gate.py``)."""
_SILENT_S = 3.5 * BEAT_S
_BUFFER_BYTES = 1 << 20
_STREAM_BYTES = 256 << 10
_MOST_FIRST_BYTES = 64 << 10


@dataclass(frozen=True)
class NodeAddress:
    """Where a gate listens, and the name in its certificate."""

    host: str
    port: int
    name: str


_Dialled = tuple[asyncio.Transport, "_Opening"]


@dataclass(frozen=True)
class FarStream:
    """A connection to a program on a node, with reading paused; the holder closes it. ``early``: bytes that it has sent already."""

    transport: asyncio.Transport
    early: bytes


class RemoteNode(NodeLink):
    """The node at an address. See :class:`NodeLink`."""

    retry_s = 0.5

    def __init__(
        self,
        address: NodeAddress,
        context: ssl.SSLContext,
        answer: Answer | None = None,
        *,
        wait_s: float = 5.0,
        call_timeout_s: float = 60.0,
    ) -> None:
        """``answer`` answers the questions of the node's egress process; None: they get none."""
        super().__init__(wait_s=wait_s, call_timeout_s=call_timeout_s)
        self.address = address
        self._answer = answer
        self._context = context
        self._spares: deque[tuple[float, asyncio.Transport, _Opening]] = deque()
        """Connections for the next streams, and when they were made."""
        self._refilling: asyncio.Task[None] | None = None
        self.hello: dict[str, Any] = {}
        """The gate's words about itself; empty before the first connection."""
        self.trouble = "it was not reached yet"
        """Why there is no connection; empty while there is one."""
        self.heard_at = time.monotonic()
        """When the gate was last heard, or this object was made (monotonic)."""
        self.is_leaving = False
        """Whether the gate said that it stops on purpose."""

    async def _connect(self) -> FarChannel:
        try:
            async with asyncio.timeout(_CONNECT_S):
                channel = _BeatingChannel(*await self._open(_BUFFER_BYTES), self._heard, self._answer)
        except TimeoutError as error:
            raise ChannelClosedError("no answer") from error
        try:
            await channel.send({"open": "calls", "protocol": PROTOCOL})
            while True:
                body = (await channel.receive()).body
                raise_error(body)
                if isinstance(hello := body.get("hello"), dict):
                    self.hello = hello
                if body.get("ready") is True:
                    break
                self.trouble = "its supervisor does not answer"
        except CloisterError as error:
            channel.close()
            raise ChannelClosedError(error.message) from error
        except BaseException:
            channel.close()
            raise
        self.trouble = ""
        return channel

    async def _open(self, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self.address
        return await asyncio.open_connection(
            address.host, address.port, ssl=self._context, server_hostname=address.name, ssl_handshake_timeout=_CONNECT_S, limit=limit
        )

    def _heard(self, message: Message) -> None:
        self.heard_at = time.monotonic()
        self.is_leaving = message.body.get("leaving") is True or (self.is_leaving and "beat" in message.body)

    def note_failure(self, error: OSError) -> None:
        """See the superclass."""
        self.trouble = str(error) or type(error).__name__

    async def _exchange(self, method: Method, request: Any) -> Any:
        if method.name != "dial_volume":
            return await super()._exchange(method, request)
        await self.wait_connected()
        return await self._socket_of(await self._stream({"open": "volume", "params": request}))

    async def report(self, timeout_s: float) -> NodeInfo:
        """The supervisor's report, on a connection of its own, for one who does not keep connected. Raises: CloisterError."""
        try:
            async with asyncio.timeout(timeout_s):
                session = NodeSession(await self._connect(), timeout_s)
                reading = asyncio.create_task(session.run(NodeListener(_nothing_to_agree, _hear_nothing)))
                try:
                    return await session.calls.ping()
                finally:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
        except (OSError, TimeoutError) as error:
            raise NodeUnreachableError(str(error) or self.trouble) from error

    async def open_port(self, sandbox_id: str, port: int) -> FarStream:
        """A connection to a port of a sandbox. Raises: CloisterError; ConnectionRefusedError: no program listens there."""
        await self.wait_connected()
        return await self._stream({"open": "port", "sandbox_id": sandbox_id, "port": port})

    async def _stream(self, first: dict[str, Any]) -> FarStream:
        try:
            async with asyncio.timeout(_OPEN_S):
                transport, opening = self._take_spare() or await self._dial()
                try:
                    transport.write(packed(first))
                    body, early = await opening.answer
                except BaseException:
                    transport.abort()
                    raise
        except (OSError, TimeoutError) as error:
            raise NodeUnreachableError("the sandbox's node does not answer", hint="try again") from error
        finally:
            self._refill()
        if body.get("opened") is True:
            return FarStream(transport, early)
        transport.abort()
        raise_error(body)
        raise ConnectionRefusedError("no program listens there")

    async def _dial(self) -> _Dialled:
        """A new connection to the gate, on which nothing was said. Raises: OSError, TimeoutError."""
        loop, address = asyncio.get_running_loop(), self.address
        opening = _Opening(loop.create_future())
        transport, _ = await loop.create_connection(
            lambda: opening,
            address.host,
            address.port,
            ssl=self._context,
            server_hostname=address.name,
            ssl_handshake_timeout=_CONNECT_S,
        )
        return transport, opening

    def _take_spare(self) -> _Dialled | None:
        """A connection that was made ahead: a stream then needs no handshake."""
        while self._spares:
            made_at, transport, opening = self._spares.popleft()
            if not transport.is_closing() and not opening.answer.done() and time.monotonic() - made_at < SPARE_S:
                return transport, opening
            transport.abort()
        return None

    def _refill(self) -> None:
        if self._refilling is None or self._refilling.done():
            self._refilling = asyncio.create_task(self._make_spares())

    async def _make_spares(self) -> None:
        with contextlib.suppress(OSError, TimeoutError):  # the next stream makes its own connection, or says what is wrong
            while len(self._spares) < _SPARES and self.is_connected:
                self._spares.append((time.monotonic(), *await self._dial()))

    async def close(self) -> None:
        """See the superclass."""
        if self._refilling is not None:
            self._refilling.cancel()
            await asyncio.gather(self._refilling, return_exceptions=True)
        while self._spares:
            self._spares.popleft()[1].abort()
        await super().close()

    async def _socket_of(self, stream: FarStream) -> socket.socket:
        """One end of a pair of sockets, whose other end is carried to and from the stream until either ends."""
        mine, theirs = socket.socketpair()
        theirs.setblocking(False)
        try:
            reader, writer = await asyncio.open_connection(sock=mine, limit=_STREAM_BYTES)
        except BaseException:
            mine.close()
            theirs.close()
            stream.transport.abort()
            raise
        far = _Carrying(stream.transport, writer)
        stream.transport.set_protocol(far)
        far.data_received(stream.early)
        stream.transport.resume_reading()
        far.begin(reader)
        return theirs


async def _nothing_to_agree(_node: NodeClient) -> None:
    """For one call."""


def _hear_nothing(_event: NodeEvent) -> None:
    """For one call."""


class _BeatingChannel(FarChannel):
    """Keeps the beats for itself, and ends with a gate that is silent for too long."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Callable[[Message], None], answer: Answer | None
    ) -> None:
        super().__init__(reader, writer)
        self._heard = heard
        self._answer = answer
        self._answering: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """See the superclass."""
        for task in self._answering:
            task.cancel()
        super().close()

    async def _give_answer(self, body: dict[str, Any]) -> None:
        if self._answer is not None:
            line = await self._answer(str(body.get("line")))
            with contextlib.suppress(ConnectionError):  # the node asks again by another connection
                await self.send({"answered": body["ask"], "line": line})

    async def receive(self) -> Message:
        """See the superclass."""
        while True:
            try:
                async with asyncio.timeout(_SILENT_S):
                    message = await super().receive()
            except TimeoutError as error:
                self.close()
                raise ChannelClosedError("the node is silent") from error
            self._heard(message)
            await asyncio.sleep(0)  # a node that sends without end leaves the loop to all others
            if "ask" in message.body:
                task = asyncio.create_task(self._give_answer(message.body))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
            elif "beat" not in message.body and "leaving" not in message.body:
                return message


class _Opening(asyncio.Protocol):
    """Waits for the first message of a stream, and then stops reading."""

    def __init__(self, answer: asyncio.Future[tuple[dict[str, Any], bytes]]) -> None:
        self.answer = answer
        self._data = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See the superclass; likewise below."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See the superclass."""
        self._data += data
        size = HEAD_BYTES + int.from_bytes(self._data[:HEAD_BYTES], "big")
        if self.answer.done() or len(self._data) < HEAD_BYTES or len(self._data) < size <= _MOST_FIRST_BYTES:
            return
        if self._transport is not None:
            self._transport.pause_reading()
        try:
            if size > _MOST_FIRST_BYTES:
                raise ProtocolError("the first message of a stream is too long")
            self.answer.set_result((unpacked(bytes(self._data[HEAD_BYTES:size])), bytes(self._data[size:])))
        except ProtocolError as error:
            self.answer.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """See the superclass."""
        if not self.answer.done():
            self.answer.set_exception(ChannelClosedError(str(exc) if exc else "the node closed the stream"))
            self.answer.exception()  # marks it as seen: no task may wait for it


class _Carrying(asyncio.Protocol):
    """Carries bytes between a stream of a gate and a socket."""

    def __init__(self, far: asyncio.Transport, near: asyncio.StreamWriter) -> None:
        self._far = far
        self._near = near
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, reader: asyncio.StreamReader) -> None:
        """Carry what the socket sends."""
        self._keep(self._send(reader))

    def _keep(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_STREAM_BYTES):
                self._far.write(data)
                await self._may_write.wait()
        self._far.close()

    def data_received(self, data: bytes) -> None:
        """See the superclass; likewise below."""
        if data and not self._near.is_closing():
            self._near.write(data)
            if self._near.transport.get_write_buffer_size() > _BUFFER_BYTES:
                self._far.pause_reading()
                self._keep(self._resume())

    async def _resume(self) -> None:
        with contextlib.suppress(OSError):
            await self._near.drain()
        if not self._far.is_closing():
            self._far.resume_reading()

    def pause_writing(self) -> None:
        """See the superclass."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """See the superclass."""
        self._may_write.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the end is all that matters
        """See the superclass."""
        self._may_write.set()
        self._near.close()
