"""Connect RPC over aiohttp: registered methods become routes. Does the work that all calls share.

For each call it maps the content type to a codec and the body to a message within a bound. It takes the user from basic auth, keeps the
deadline, and maps our errors to the protocol's. A quiet stream gets keep-alive messages, and ``send`` returns when the client's buffer
has room. When the client disconnects, the handler's task is cancelled (the server runs with ``handler_cancellation``). The application
checks the access token (``app.py``), as for all other routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aiohttp import web

from cloister.agent.auth import basic_user
from cloister.errors import CloisterError, DeadlineError, InternalError, InvalidRequestError
from cloister.protocol.connect import (
    STREAM_TYPES,
    UNARY_TYPES,
    Codec,
    EnvelopeParser,
    code_of,
    codec_of,
    encode_end,
    encode_envelope,
    error_object,
    http_status,
    parse_timeout_s,
    refuse_compression,
    too_large,
)
from cloister.protocol.message import MessageError
from cloister.protocol.message_binary import from_binary, to_binary
from cloister.protocol.message_json import from_json, to_json

__all__ = ["Call", "RpcRouter", "Stream"]

_MAX_MESSAGE_BYTES = 32 << 20
"""Bound of one message, which is parsed as a whole: about 24 MB of input in JSON."""
_KEEPALIVE_S = 90.0
_LAST_WRITE_S = 5.0
"""How long the end of a stream waits for a client that does not read."""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """The facts about a call that its handler gets besides the message. ``user`` is None if the client named none."""

    user: str | None
    timeout_s: float | None
    """The client's remaining time when the call begins; None: no limit."""


class Stream(Generic[_Response]):
    """The answer of a streaming method: sends messages in order, each as a whole."""

    def __init__(self, response: web.StreamResponse, codec: Codec) -> None:
        self._response = response
        self._codec = codec
        self._loop = asyncio.get_running_loop()
        self.written_at = self._loop.time()

    async def send(self, *messages: _Response) -> None:
        """Send messages in one piece. Returns when the client's buffer has room again."""
        self.written_at = self._loop.time()
        await self._response.write(b"".join(encode_envelope(_encode(self._codec, one)) for one in messages))

    async def keep_alive(self, message: _Response, every_s: float) -> None:
        """Send ``message`` whenever the stream was quiet for ``every_s``; the caller cancels this."""
        while True:
            quiet_s = self._loop.time() - self.written_at
            if quiet_s < every_s:
                await asyncio.sleep(every_s - quiet_s)
            else:
                await self.send(message)


class RpcRouter:
    """The methods of one or more services."""

    def __init__(self) -> None:
        self._routes: list[web.RouteDef] = []

    def routes(self) -> list[web.RouteDef]:
        """The routes of all methods, for ``app.router.add_routes``."""
        return self._routes

    def unary(self, path: str, request_type: type[_Request], handler: Callable[[_Request, Call], Awaitable[object]]) -> None:
        """Register a method ``/package.Service/Method`` that takes a message and returns one."""

        async def answer(http: web.Request) -> web.StreamResponse:
            codec = codec_of(http.content_type, stream=False)
            if codec is None:
                return _unsupported(UNARY_TYPES)
            try:
                refuse_compression(http.headers.get("Content-Encoding"))
                call = _call_of(http)
                async with _deadline(call):
                    request = _decode(codec, request_type, await _body(http))
                    body = _encode(codec, await handler(request, call))
            except CloisterError as error:
                return _error(error)
            except Exception:  # noqa: BLE001 - the border of the call's task
                return _error(_failed(http))
            return web.Response(body=body, content_type=f"application/{codec}")

        self._routes.append(web.post(path, answer))

    def server_stream(
        self,
        path: str,
        request_type: type[_Request],
        handler: Callable[[_Request, Call, Stream[_Response]], Awaitable[None]],
        *,
        keepalive: _Response,
        has_deadline: bool = True,
    ) -> None:
        """Register a method that takes a message and answers with many, with ``keepalive`` whenever it is quiet.

        ``has_deadline``: the client's time limit ends the call here; otherwise the handler keeps it.
        """

        async def run(http: web.Request, codec: Codec, call: Call, response: web.StreamResponse) -> None:
            request = _decode(codec, request_type, await _only_message(http))
            stream: Stream[_Response] = Stream(response, codec)
            pinging = asyncio.ensure_future(stream.keep_alive(keepalive, _keepalive_s(http)))
            try:
                await handler(request, call, stream)
            finally:
                pinging.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                    await pinging

        self._routes.append(web.post(path, _streaming(run, has_deadline=has_deadline)))

    def client_stream(
        self, path: str, request_type: type[_Request], handler: Callable[[AsyncIterator[_Request], Call], Awaitable[object]]
    ) -> None:
        """Register a method that takes many messages, one by one, and answers with one."""

        async def run(http: web.Request, codec: Codec, call: Call, response: web.StreamResponse) -> None:
            answer = await handler(_messages(http, codec, request_type), call)
            await response.write(encode_envelope(_encode(codec, answer)))

        self._routes.append(web.post(path, _streaming(run, has_deadline=True)))


_Run = Callable[[web.Request, Codec, Call, web.StreamResponse], Awaitable[None]]


def _streaming(run: _Run, *, has_deadline: bool) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(http: web.Request) -> web.StreamResponse:
        codec = codec_of(http.content_type, stream=True)
        if codec is None:
            return _unsupported(STREAM_TYPES)
        response = web.StreamResponse(headers={"Content-Type": f"application/connect+{codec}", "Cache-Control": "no-store"})
        end: CloisterError | None = None
        await response.prepare(http)
        try:
            refuse_compression(http.headers.get("Connect-Content-Encoding"))
            call = _call_of(http)
            async with _deadline(call) if has_deadline else contextlib.nullcontext():
                await run(http, codec, call, response)
        except CloisterError as error:
            end = error
        except ConnectionError:
            return response  # the client has gone
        except Exception:  # noqa: BLE001 - the border of the call's task
            end = _failed(http)
        await _finish(http, response, encode_end(end))
        return response

    return answer


async def _finish(http: web.Request, response: web.StreamResponse, end: bytes) -> None:
    """Write the end of the stream; cut off a client that does not take it in time."""
    try:
        async with asyncio.timeout(_LAST_WRITE_S):
            await response.write_eof(end)
    except (TimeoutError, ConnectionError):
        if http.transport is not None:
            http.transport.abort()


@contextlib.asynccontextmanager
async def _deadline(call: Call) -> AsyncIterator[None]:
    scope = asyncio.timeout(call.timeout_s)
    try:
        async with scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise DeadlineError(f"The call did not end within the {call.timeout_s:g} s that the client gave it") from None


def _call_of(http: web.Request) -> Call:
    return Call(basic_user(http.headers.get("Authorization")), parse_timeout_s(http.headers.get("Connect-Timeout-Ms")))



def _keepalive_s(http: web.Request) -> float:
    value = http.headers.get("Keepalive-Ping-Interval", "")
    return max(1.0, float(value)) if value.isascii() and value.isdigit() and len(value) < 7 else _KEEPALIVE_S


async def _body(http: web.Request) -> bytes:
    parts, size = [], 0
    async for part in http.content.iter_any():
        size += len(part)
        if size > _MAX_MESSAGE_BYTES:
            raise too_large(_MAX_MESSAGE_BYTES)
        parts.append(part)
    return b"".join(parts)


async def _only_message(http: web.Request) -> bytes:
    """The only message of a server stream's request."""
    message: bytes | None = None
    async for one in _envelopes(http):
        if message is not None:
            raise InvalidRequestError("The request has more than one message")
        message = one
    if message is None:
        raise InvalidRequestError("The request has no message")
    return message


async def _envelopes(http: web.Request) -> AsyncIterator[bytes]:
    parser = EnvelopeParser(_MAX_MESSAGE_BYTES)
    async for part in http.content.iter_any():
        for envelope in parser.feed(part):
            if not envelope.is_end:
                yield envelope.data
    parser.finish()


async def _messages(http: web.Request, codec: Codec, message_type: type[_Request]) -> AsyncIterator[_Request]:
    async for data in _envelopes(http):
        yield _decode(codec, message_type, data)


def _decode(codec: Codec, message_type: type[_Request], data: bytes) -> _Request:
    try:
        return from_json(message_type, data) if codec is Codec.JSON else from_binary(message_type, data)
    except MessageError as error:
        raise InvalidRequestError(str(error)) from None


def _encode(codec: Codec, message: Any) -> bytes:
    return to_json(message) if codec is Codec.JSON else to_binary(message)


def _error(error: CloisterError) -> web.Response:
    return web.json_response(error_object(error), status=http_status(code_of(error)))


def _failed(http: web.Request) -> InternalError:
    """Log the exception that is being handled."""
    _LOG.exception("%s failed", http.path)
    return InternalError("The agent failed at this call; its log says why")


def _unsupported(types: dict[str, Codec]) -> web.Response:
    """Answer as the protocol demands: no body, and a list of the accepted types."""
    return web.Response(status=415, headers={"Accept-Post": ", ".join(types)})
