"""The HTTP server below the application: bounds each connection, and answers malformed requests in the published error form.

Well-formed requests reach the application; this module handles malformed and endless ones. Invariant: before authentication, the memory
and time that a client can take are bounded. Where aiohttp has a bound (length of a line, number of headers, requests read ahead), it is
set; everything else is counted here.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from aiohttp.web_server import Server

from cloister.api.connections import Connection, ConnectionPolicy, Connections
from cloister.api.errors import error_response
from cloister.api.listening import BoundedSite
from cloister.api.peers import Peers

__all__ = ["MAX_HEAD_BYTES", "JsonErrorRunner"]

_Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_log = structlog.get_logger("cloister.api")
MAX_HEAD_BYTES = 64 * 1024
"""Bound of a request's whole head, and of each of its lines."""
_MAX_READ_AHEAD = 2
"""Pipelined requests that wait on a connection; aiohttp's default is 32, each with a head."""
_FRAMING_BYTES = 64 * 1024
_FRAMING_FACTOR = 8
"""Bound of a chunked body's overhead (extensions, trailers), as a factor: a chunk of one byte takes 6 bytes."""
_SMALL_BYTES, _SPACE_BYTES = 4096, 1024
"""Bytes of a next head that may go uncounted, where exact counting would cost too much."""
_LINGERING_S = 3.0
"""How long a client may go on sending a body after an early answer, so that it can read the answer."""
_SWEEP_S = 0.5


class JsonErrorRunner(web.AppRunner):
    """An ``AppRunner`` with bounded connections, which answers malformed requests in the published error form."""

    def __init__(self, app: web.Application, policy: ConnectionPolicy, peers: Peers, **settings: Any) -> None:
        super().__init__(app, max_line_size=MAX_HEAD_BYTES, max_field_size=MAX_HEAD_BYTES, lingering_time=_LINGERING_S, **settings)
        self._connections = Connections(policy)
        self._peers = peers
        self._sweeping: asyncio.Task[None] | None = None

    async def _make_server(self) -> Server:
        server = await super()._make_server()
        server.request_handler = _checked(server.request_handler)
        self._sweeping = asyncio.create_task(self._sweep())
        return server

    async def listen(self, listener: socket.socket, context: ssl.SSLContext | None = None) -> None:
        """Serve on ``listener``, with TLS if there is a ``context``. Call :meth:`setup` first."""
        await BoundedSite(self, self._protocol, listener, self._connections, self._peers, context).start()

    def _protocol(self, connection: Connection) -> asyncio.Protocol:
        server = self.server
        assert server is not None
        return _Handler(server, self._connections, connection, server._kwargs)  # noqa: SLF001 - as aiohttp's own factory does

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                self._connections.expire()
            except Exception:  # noqa: BLE001 - task border: this task enforces the deadlines of all heads
                _log.exception("connections.not_expired")

    async def cleanup(self) -> None:
        """Stop accepting, wait briefly for requests under way, and close all connections."""
        await super().cleanup()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)


def _checked(handler: _Handle) -> _Handle:
    """An unknown ``Expect`` header appears in aiohttp's answer before any middleware runs, which fails unless it is valid UTF-8."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if not request.headers.get("Expect", "").isascii():
            return error_response(417, "the header Expect has characters that no expectation has")
        return await handler(request)

    return handle


class _LastRequest:
    """The body of a connection's last request. ``message`` is aiohttp's parsed head, or its error."""

    __slots__ = ("body", "carried", "chunked", "received")

    def __init__(self, message: Any, body: StreamReader) -> None:
        self.body = body
        self.chunked = bool(getattr(message, "chunked", False))
        self.carried = 0 if body is EMPTY_PAYLOAD else body.total_bytes
        """Bytes in the read with the head."""
        self.received = 0
        """Bytes in later reads."""

    def left(self) -> int:
        """Bytes after the end of a body of known length."""
        return self.received - (self.body.total_bytes - self.carried)

    def is_padded(self) -> bool:
        """Whether extensions and trailers exceed the bound of the overhead."""
        return self.body.exception() is None and self.received > _FRAMING_BYTES + (1 + _FRAMING_FACTOR) * self.body.total_bytes


class _Handler(RequestHandler):
    """One connection. Reports to ``connections`` when it waits, and counts bytes that aiohttp does not."""

    def __init__(self, server: Server, connections: Connections, connection: Connection, settings: dict[str, Any]) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **settings)
        self._max_msg_queue_size, self._msg_queue_resume_size = _MAX_READ_AHEAD, _MAX_READ_AHEAD - 1
        self._connections = connections
        self._connection = connection
        self._last = _LastRequest(None, EMPTY_PAYLOAD)
        self._end = b""
        """The last bytes received: an empty line may begin in them."""
        self._since_blank = 0
        """Bytes after the last empty line."""
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve, unless the connection was closed meanwhile for a newer one."""
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        self._connection.abort = transport.abort
        self._connection.expire = self._head_is_late
        if not self._connection.is_open:
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Release the connection's place."""
        self._connections.lose(self._connection)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes, and count them for a head or a body."""
        if self._refused:
            return
        before, last, in_body = self._request_count, self._last, not self._last.body.is_eof()
        super().data_received(data)
        self._note_blank(data, in_body=in_body)
        if self._request_count > before:
            self._requests_arrived(self._request_count - before, len(data))
        elif self._upgraded or self._payload_parser is not None:
            return
        elif in_body:
            last.received += len(data)
            if not last.body.is_eof():
                if last.is_padded():
                    self._break_off("the chunks of the body carry too little")
            elif (left := self._since_blank if last.chunked else last.left()) > 0:
                self._connections.begin(self._connection, left)
        elif data.strip(b"\r\n"):  # some clients send a line end after a body
            self._connections.begin(self._connection, len(data))
            if self._connection.head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, _TOO_LARGE)

    def _note_blank(self, data: bytes, *, in_body: bool) -> None:
        if in_body and not self._last.chunked:
            return
        joined = self._end + data
        at = joined.rfind(b"\r\n\r\n")
        self._since_blank = len(joined) - at - 4 if at >= 0 else self._since_blank + len(data)
        self._end = joined[-3:]

    def _requests_arrived(self, count: int, size: int) -> None:
        """Refuse heads that are too large, and count the bytes after the last request: they begin the next head."""
        known = self._connection.head_bytes + size
        self._connections.work(self._connection)
        self._last = last = _LastRequest(*self._messages[-1])
        arrived = range(len(self._messages) - count, len(self._messages))
        if last.body is EMPTY_PAYLOAD or last.chunked:
            left = self._since_blank if last.body.is_eof() else 0
        elif known - last.carried <= _SMALL_BYTES or not last.body.is_eof():
            left = 0
        else:
            left = known - last.carried - sum(_head_bytes(self._messages[number][0]) for number in arrived)
        if left > (0 if last.body is EMPTY_PAYLOAD or last.chunked else _SPACE_BYTES):
            self._connections.begin(self._connection, left)
        if size and known <= MAX_HEAD_BYTES:
            return
        for number in arrived:
            if _head_bytes(self._messages[number][0]) > MAX_HEAD_BYTES:
                self._messages[number] = (_ErrInfo(431, ValueError(_TOO_LARGE), _TOO_LARGE), EMPTY_PAYLOAD)
                self._refused = True

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Answer a request, then wait for the next."""
        done = await super().finish_response(request, resp, start_time)
        if self._messages:
            self._last = _LastRequest(*self._messages[-1])
        else:
            self._connections.wait(self._connection, has_begun=self._connection.head_bytes > 0)
        return done

    def _head_is_late(self) -> None:
        if self._connection.head_bytes:
            self._refuse(408, f"the head of the request did not come within {self._connections.policy.head_timeout_s:g} s")
        elif self.transport is not None:
            self.transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        """Answer a malformed request after all earlier ones, stop reading, and close."""
        self._refused = True
        self._connections.work(self._connection)
        self._messages.append((_ErrInfo(status, ValueError(message), message), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _break_off(self, why: str) -> None:
        _log.info("request.malformed", peer=self.peername, error=why)
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer and close the connection. Raises: ConnectionError: a part of an answer was sent already."""
        if isinstance(exc, LineTooLong):
            status, message = 431, _TOO_LARGE
        is_under_way = request.writer.output_size > 0
        if is_under_way and isinstance(exc, ConnectionResetError):  # its reader disconnected, or the sandbox that wrote it ended
            _log.info("answer.broken_off", peer=request.remote, error=str(exc))
        elif status >= 500:
            _log.error("request.failed", peer=request.remote, exc_info=exc)
        else:
            _log.info("request.malformed", peer=request.remote, status=status, error=type(exc).__name__)
        if is_under_way:
            raise ConnectionError("an answer is under way; there is no place for another")
        text = "internal error" if status >= 500 else _describe(status, message)
        response = error_response(status, text)
        response.force_close()
        return response


_TOO_LARGE = f"the head of the request has more than {MAX_HEAD_BYTES} bytes"


def _head_bytes(message: Any) -> int:
    """Size of a parsed head: request line and headers, with separators; 0 for an error."""
    if isinstance(message, _ErrInfo):
        return 0
    return len(message.method) + len(message.path) + 12 + sum(len(name) + len(value) + 4 for name, value in message.raw_headers)


def _describe(status: int, message: str | None) -> str:
    """The parser's message, without the bytes that it quotes."""
    if status != 400:
        return message or "the request is not valid"
    return f"the request is not valid HTTP: {(message or 'it cannot be parsed').strip().splitlines()[0].rstrip(':')[:200]}"
