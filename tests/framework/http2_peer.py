"""One end of an HTTP/2 connection, for tests: h2's state over a stream of asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection

from framework.intercept_lab import HOST, FakeValues, InterceptLab, Peer, open_lab, server_context

__all__ = ["OK", "Http2Peer", "Http2Server", "Seen", "echo", "head", "opened_http2"]


@dataclass
class Seen:
    """What came on one stream."""

    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    informational: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    body: bytes = b""
    size: int = 0
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    has_ended: bool = False
    reset: int | None = None

    def header(self, name: bytes) -> list[bytes]:
        """The values of a header."""
        return [value for key, value in self.headers if key == name]


class Http2Peer:
    """Keeps what comes by stream. ``acknowledges`` false: it never gives room for more data."""

    def __init__(self, peer: Peer, *, is_client: bool, acknowledges: bool = True, keeps_bodies: bool = True) -> None:
        self.reader, self.writer = peer
        self.connection = H2Connection(H2Configuration(client_side=is_client, header_encoding=False, validate_outbound_headers=False))
        self.streams: dict[int, Seen] = {}
        self.ended: events.ConnectionTerminated | None = None
        self.is_closed = False
        self.acknowledges = acknowledges
        self.keeps_bodies = keeps_bodies
        self.on_event: Callable[[events.Event], None] = lambda _event: None
        self.changed = asyncio.Condition()
        self.connection.initiate_connection()

    def stream(self, stream_id: int) -> Seen:
        """What came on the stream so far."""
        return self.streams.setdefault(stream_id, Seen())

    async def run(self) -> None:
        """Read until the end."""
        await self.flush()
        try:
            while data := await self.reader.read(65536):
                for event in self.connection.receive_data(data):
                    self._take(event)
                    self.on_event(event)
                await self.flush()
                async with self.changed:
                    self.changed.notify_all()
        except ConnectionError:
            pass
        finally:
            self.is_closed = True
            async with self.changed:
                self.changed.notify_all()

    def _take(self, event: events.Event) -> None:
        stream_id = getattr(event, "stream_id", None)
        seen = self.stream(stream_id) if stream_id else Seen()
        match event:
            case events.RequestReceived() | events.ResponseReceived():
                seen.headers = list(event.headers)
            case events.InformationalResponseReceived():
                seen.informational.append(list(event.headers))
            case events.DataReceived():
                seen.size += len(event.data)
                if self.keeps_bodies:
                    seen.body += event.data
                if self.acknowledges:
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case events.TrailersReceived():
                seen.trailers = list(event.headers)
            case events.StreamEnded():
                seen.has_ended = True
            case events.StreamReset():
                seen.reset = int(event.error_code)
            case events.ConnectionTerminated():
                self.ended = event

    async def flush(self) -> None:
        """Send what waits."""
        self.writer.write(self.connection.data_to_send())
        await self.writer.drain()

    async def wait(self, condition: Callable[[], bool], timeout_s: float = 20) -> None:
        """Wait until something that came makes the condition true, or the connection ended."""
        async with asyncio.timeout(timeout_s), self.changed:
            await self.changed.wait_for(lambda: condition() or self.is_closed)
        assert condition(), f"the connection ended before: {self.ended} {self.streams}"

    async def ask(self, *more: tuple[bytes, bytes], stream_id: int = 1, ends: bool = True, **changes: Any) -> Seen:
        """Send a request's head."""
        self.connection.send_headers(stream_id, head(*more, **changes), end_stream=ends)
        await self.flush()
        return self.stream(stream_id)

    async def send_body(self, stream_id: int, chunk: bytes, count: int) -> None:
        """Send a body of ``count`` chunks as there is room, and end the stream."""
        for _ in range(count):
            await self.wait(lambda: self.connection.local_flow_control_window(stream_id) >= len(chunk))
            self.connection.send_data(stream_id, chunk)
            await self.flush()
        self.connection.end_stream(stream_id)
        await self.flush()


def head(*more: tuple[bytes, bytes], **changes: bytes) -> list[tuple[bytes, bytes]]:
    """The head of a request for the lab's host; ``changes`` are pseudo-headers without the colon, and an empty one is left out."""
    pseudo = {"method": b"GET", "scheme": b"https", "authority": HOST.encode(), "path": b"/"} | changes
    return [*((f":{name}".encode(), value) for name, value in pseudo.items() if value), *more]


class Http2Server:
    """An upstream that answers events by ``answer``."""

    def __init__(self, answer: Callable[[Http2Peer, events.Event], None], **options: bool) -> None:
        self._answer = answer
        self._options = options
        self.peers: list[Http2Peer] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        peer = Http2Peer((reader, writer), is_client=False, **self._options)
        peer.on_event = lambda event: self._answer(peer, event)
        self.peers.append(peer)
        try:
            await peer.run()
        finally:
            writer.close()


OK = [(b":status", b"200")]


def echo(peer: Http2Peer, event: events.Event) -> None:
    """Answer a complete request with its own size."""
    if isinstance(event, events.StreamEnded):
        peer.connection.send_headers(event.stream_id, OK)
        peer.connection.send_data(event.stream_id, str(peer.stream(event.stream_id).size).encode(), end_stream=True)


@contextlib.asynccontextmanager
async def opened_http2(
    directory: Path, serve: Http2Server, values: FakeValues | None = None, **options: bool
) -> AsyncIterator[tuple[InterceptLab, Http2Peer]]:
    """A lab, and a guest that has connected to it."""
    values = values or FakeValues({"key": "sk-1234"})
    async with open_lab(serve, server_context(directory, protocols=("h2", "http/1.1")), values=values) as lab:
        guest = Http2Peer(await lab.connect(protocols=("h2", "http/1.1")), is_client=True, **options)
        running = asyncio.create_task(guest.run())
        try:
            yield lab, guest
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            guest.writer.close()
