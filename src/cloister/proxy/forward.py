"""Carries one request to a sandbox and its answer back: streaming both ways, with back-pressure, and nothing changed on the way.

Invariant: an answer that broke off is broken off to the client too (its connection is aborted); it is never ended as if it were whole.
What a sandbox answers is not trusted: sizes of heads are bounded, and nothing in it steers the ingress.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web
from yarl import URL

from cloister.proxy.address import Address
from cloister.proxy.headers import request_headers, response_headers
from cloister.proxy.tunnel import Tunnel
from cloister.proxy.upstream import SandboxConnector

__all__ = ["MAX_HEADERS", "MAX_HEAD_BYTES", "READ_BUFFER_BYTES", "STARTED", "Forwarder", "abort", "is_websocket"]

MAX_HEAD_BYTES = 64 * 1024
"""Of one header, or of the request line, in either direction."""
MAX_HEADERS = 256
READ_BUFFER_BYTES = 256 * 1024
"""What is read ahead of the other side, for each direction of a request."""
STARTED = web.RequestKey("started", bool)
SWITCHING = 101
_SMALL_BYTES = 64 * 1024
_AUTOMATIC_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)


class _Answer(web.StreamResponse):
    """A sandbox's answer: no header is added to it that it does not need to be framed."""

    def __init__(self, status: int, reason: str | None, headers: object, *, upgrade: bool) -> None:
        super().__init__(status=status, reason=reason, headers=headers)  # type: ignore[arg-type]
        self._length_check = not upgrade
        self._had = {name for name in ("Content-Type", "Server", "Date") if name in self.headers}

    async def send_whole(self, request: web.Request, body: bytes) -> None:
        """Send head and body in one write."""
        self._send_headers_immediately = False
        await self.prepare(request)
        await self.write_eof(body)

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        for name in ("Content-Type", "Server", "Date"):
            if name not in self._had:
                self.headers.pop(name, None)


class Forwarder:
    """The HTTP client of the ingress."""

    def __init__(self, connector: SandboxConnector) -> None:
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_AUTOMATIC_HEADERS,
            timeout=_NO_TIMEOUT,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=MAX_HEADERS,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def forward(self, request: web.Request, address: Address) -> web.StreamResponse:
        """Have the sandbox answer ``request``; ``request[STARTED]`` is set once the client has been sent something.

        Raises:
            PortClosedError, aiohttp.ClientError: before anything was answered; the caller may still answer.
            ConnectionResetError: the answer broke off, and so was the client's connection.
            CloisterError: from the dialer, before anything was answered.
        """
        upgrade = is_websocket(request)
        peer, scheme = request.remote or "unknown", request.scheme
        headers = request_headers(request.raw_headers, peer=peer, host=request.host, scheme=scheme, upgrade=upgrade)
        upstream = await self._session.request(
            request.method,
            _target(address, request.raw_path),
            headers=headers,
            data=None if upgrade else await _body(request),
            allow_redirects=False,
        )
        try:
            if upstream.status == SWITCHING:
                return await _tunnel(request, upstream)
            return await _relay(request, upstream)
        finally:
            if upstream.content.is_eof() and upstream.status != SWITCHING:
                upstream.release()
            else:
                upstream.close()


def is_websocket(request: web.BaseRequest) -> bool:
    """Whether the client asks for a WebSocket."""
    return request.headers.get("Upgrade", "").lower() == "websocket" and "upgrade" in request.headers.get("Connection", "").lower()


def _target(address: Address, raw_path: str) -> URL:
    """The request's target, byte for byte: as one already encoded path, which is written out as it is."""
    if not raw_path.startswith("/"):
        _, _, rest = raw_path.partition("://")
        raw_path = "/" + rest.partition("/")[2]
    return URL.build(scheme="http", host=address.sandbox_id, port=address.port, path=raw_path, encoded=True)


async def _body(request: web.Request) -> bytes | AsyncIterator[bytes] | None:
    """The request's body: whole when it is small or here already, else as a stream."""
    if not request.body_exists:
        return None
    if (request.content_length or _SMALL_BYTES + 1) <= _SMALL_BYTES:
        return await request.content.read()
    if request.content.is_eof():
        return request.content.read_nowait()
    return request.content.iter_any()


async def _relay(request: web.Request, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
    answer = _Answer(upstream.status, upstream.reason, response_headers(upstream.raw_headers, upgrade=False), upgrade=False)
    request[STARTED] = True
    if upstream.content.is_eof() and upstream.content.exception() is None:
        await answer.send_whole(request, upstream.content.read_nowait())
        return answer
    await answer.prepare(request)
    try:
        while chunk := await upstream.content.readany():
            await answer.write(chunk)
    except aiohttp.ClientError as error:
        abort(request)
        raise ConnectionResetError("the sandbox broke its answer off") from error
    await answer.write_eof()
    return answer


async def _tunnel(request: web.Request, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
    connection = upstream.connection
    if connection is None or connection.protocol is None or request.protocol is None:
        raise aiohttp.ServerDisconnectedError
    answer = _Answer(SWITCHING, upstream.reason, response_headers(upstream.raw_headers, upgrade=True), upgrade=True)
    request[STARTED] = True
    await answer.prepare(request)
    await Tunnel(request.protocol, connection.protocol).run()
    return answer


def abort(request: web.BaseRequest) -> None:
    """Break the client's connection, so that it cannot take what it got for the whole."""
    if request.transport is not None:
        request.transport.abort()
