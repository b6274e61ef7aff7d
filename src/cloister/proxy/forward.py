"""Forwards one request to a sandbox and the response back, streaming in both directions, with back-pressure and unchanged content.

Invariant: if a response is interrupted, the client's connection is aborted, so that the client cannot take a part for the whole.
Responses of sandboxes are untrusted: their headers are bounded in size, and no header controls the ingress.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from cloister.protocol.agent import AGENT_PORTS
from cloister.protocol.execution import encode_event, keepalive_event
from cloister.proxy.address import ID_HEADER, Address
from cloister.proxy.headers import confine, request_headers, response_headers, share_origin
from cloister.proxy.tunnel import Tunnel
from cloister.proxy.upstream import SandboxConnector
from cloister.telemetry.traceparent import TRACEPARENT

__all__ = [
    "ANSWERED_AT",
    "HEAD_AT",
    "MAX_HEADERS",
    "MAX_HEAD_BYTES",
    "READ_BUFFER_BYTES",
    "STARTED",
    "UNADDRESSED",
    "Forwarder",
    "StalledError",
    "abort",
    "is_websocket",
]

MAX_HEAD_BYTES = 64 * 1024
"""Largest header or request line, in either direction."""
MAX_HEADERS = 256
READ_BUFFER_BYTES = 256 * 1024
"""Read-ahead for each direction of a request."""
_API_KEY_HEADER = "X-API-Key"
STARTED = web.RequestKey("started", bool)
UNADDRESSED = web.RequestKey("unaddressed", bool)
"""Set for a request that names no sandbox: its credential identified one. A browser may follow such a link on the API's own origin."""
HEAD_AT = web.RequestKey("head_at", float)
"""When the head of the sandbox's response came (``time.perf_counter``)."""
ANSWERED_AT = web.RequestKey("answered_at", float)
"""When the first part of the response's body came that is no keepalive of a run (``time.perf_counter``)."""
_KEEPALIVE = encode_event(keepalive_event())
_BODY = web.RequestKey("body", bytes)
SWITCHING = 101
_SMALL_BYTES = 64 * 1024
_FLUSH_S = 10.0
_AUTOMATIC_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)


class StalledError(aiohttp.ClientError):
    """The client stopped sending in the middle of a request body."""

    def __init__(self, stall_s: float) -> None:
        super().__init__(f"no data of the request body came for {stall_s:g} s")


class _Answer(web.StreamResponse):
    """A sandbox's response. aiohttp adds only the headers that framing needs."""

    def __init__(self, status: int, reason: str | None, headers: object, *, upgrade: bool) -> None:
        super().__init__(status=status, reason=reason, headers=headers)  # type: ignore[arg-type]  # CIMultiDict at run time
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

    def __init__(self, connector: SandboxConnector, *, stall_s: float) -> None:
        self._stall_s = stall_s
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

    async def forward(
        self,
        request: web.Request,
        address: Address,
        shown_host: str | None = None,
        *,
        by_tls: bool = False,
        traceparent: str | None = None,
    ) -> web.StreamResponse:
        """Forward ``request`` and relay the response. Sets ``request[STARTED]`` before the first byte to the client.

        ``shown_host`` is the Host header that the program sees, and ``traceparent`` the header of that name; None keeps the client's.
        ``by_tls``: the program speaks TLS.

        Raises:
            PortClosedError, StalledError, aiohttp.ClientError: before the first byte; the caller may still respond.
            ConnectionResetError: the response was interrupted, and the client's connection aborted.
            CloisterError: from the dialer, before the first byte.
        """
        upgrade = is_websocket(request)
        peer, scheme = request.remote or "unknown", request.scheme
        headers = request_headers(request.raw_headers, peer=peer, host=request.host, scheme=scheme, upgrade=upgrade, shown_host=shown_host)
        if address.port in AGENT_PORTS:
            headers.popall(_API_KEY_HEADER, None)  # code in the sandbox can read the agent's requests, and some SDKs send both credentials
        if traceparent is not None:
            headers[TRACEPARENT] = traceparent
        upstream = await self._session.request(
            request.method,
            _target(address, request.raw_path, "https" if by_tls else "http"),
            headers=headers,
            data=None if upgrade else await _body(request, self._stall_s),
            allow_redirects=False,
        )
        request[HEAD_AT] = time.perf_counter()
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


def _target(address: Address, raw_path: str, scheme: str) -> URL:
    """The request's target, byte for byte: one encoded path, which aiohttp sends unchanged."""
    if not raw_path.startswith("/"):
        _, _, rest = raw_path.partition("://")
        raw_path = "/" + rest.partition("/")[2]
    return URL.build(scheme=scheme, host=address.sandbox_id, port=address.port, path=raw_path, encoded=True)


async def _body(request: web.Request, stall_s: float) -> bytes | AsyncIterator[bytes] | None:
    """The request body: as bytes if it is small or complete, else as a stream. Raises: StalledError.

    A second attempt to forward the request gets the same body: bytes are kept, and of a stream the first attempt has read nothing unless
    its connection was made.
    """
    if not request.body_exists:
        return None
    body: bytes | None = request.get(_BODY)
    if body is None and request.content.is_eof():
        body = request.content.read_nowait()
    elif body is None and (request.content_length or _SMALL_BYTES + 1) <= _SMALL_BYTES:
        try:
            async with asyncio.timeout(stall_s):
                body = await request.content.read()
        except TimeoutError as error:
            raise StalledError(stall_s) from error
    if body is not None:
        request[_BODY] = body
        return body
    return _stream(request, stall_s)


async def _stream(request: web.Request, stall_s: float) -> AsyncIterator[bytes]:
    """The body as it arrives. Once the sandbox responds, the client may wait without limit before it sends more."""
    while True:
        try:
            async with asyncio.timeout(None if request.get(STARTED) else stall_s):
                chunk = await request.content.readany()
        except TimeoutError as error:
            if request.get(STARTED):
                continue
            abort(request)
            raise StalledError(stall_s) from error
        if not chunk:
            return
        yield chunk


def _answer_headers(request: web.Request, upstream: aiohttp.ClientResponse, *, upgrade: bool) -> CIMultiDict[str]:
    headers = response_headers(upstream.raw_headers, upgrade=upgrade)
    if UNADDRESSED in request or ID_HEADER in request.headers:
        share_origin(headers)
    if UNADDRESSED in request:
        confine(headers)
    return headers


async def _relay(request: web.Request, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
    answer = _Answer(upstream.status, upstream.reason, _answer_headers(request, upstream, upgrade=False), upgrade=False)
    request[STARTED] = True
    if upstream.content.is_eof() and upstream.content.exception() is None:
        request[ANSWERED_AT] = time.perf_counter()
        await answer.send_whole(request, upstream.content.read_nowait())
        return answer
    await answer.prepare(request)
    try:
        is_answered = False
        while chunk := await upstream.content.readany():
            if not is_answered and chunk != _KEEPALIVE:
                request[ANSWERED_AT], is_answered = time.perf_counter(), True
            await answer.write(chunk)
    except aiohttp.ClientError as error:
        abort(request)
        raise ConnectionResetError("the sandbox interrupted its response") from error
    await answer.write_eof()
    return answer


async def _tunnel(request: web.Request, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
    connection = upstream.connection
    if connection is None or connection.protocol is None or request.protocol is None:
        raise aiohttp.ServerDisconnectedError
    answer = _Answer(SWITCHING, upstream.reason, _answer_headers(request, upstream, upgrade=True), upgrade=True)
    request[STARTED] = True
    await answer.prepare(request)
    await Tunnel(request.protocol, connection.protocol).run()
    return answer


def abort(request: web.BaseRequest, *, flush: bool = False) -> None:
    """Abort the client's connection, so that the client cannot take a part of the response for the whole.

    With ``flush`` it first gets what it was sent, within a bounded time.
    """
    if (transport := request.transport) is None:
        return
    if flush:
        transport.close()
        asyncio.get_running_loop().call_later(_FLUSH_S, transport.abort)
    else:
        transport.abort()
