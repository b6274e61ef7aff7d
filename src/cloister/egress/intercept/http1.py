"""Relays HTTP/1.1 between a guest and its upstream, one request after another, with the headers of the rules.

h11 reads and writes every message anew, so both sides agree on where a message ends. This module refuses what h11 would tolerate in a
request: bare CR or LF, folded lines, and a length beside a transfer coding. A WebSocket becomes two streams of bytes after its 101; the
upstream does not see wishes for other protocols. Source: RFC 9112 (sections 2.2, 6.3, 11.2), RFC 9110 section 7.8, RFC 6455 section 4.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from enum import Enum

import h11

from cloister.egress.intercept.exchange import Exchange, refusal_body, refusal_headers
from cloister.egress.intercept.requests import (
    Headers,
    RefusedRequestError,
    check_host,
    check_method,
    origin_form,
    with_injected,
    without_names,
)
from cloister.egress.intercept.streams import ReadAhead, Stream, linger, relay_bytes
from cloister.egress.pace import PIECE

__all__ = ["answer_with_refusal", "relay_http1"]

_MAX_HEAD_BYTES = 64 << 10
_HEAD_S = 60.0
"""From the first byte of a request's head to its last."""
_LATE_BODY_S = 30.0
"""How long a request's body may go on after its answer is complete."""
_MISREAD = re.compile(rb"(?<!\r)\n|\r(?!\n)|\0|\n[ \t]")
_BLANK_LINE = b"\r\n\r\n"


class _Next(Enum):
    REQUEST = "another request may follow"
    TUNNEL = "the protocol was switched"
    END = "the connection ends"


async def relay_http1(guest: Stream, upstream: Stream, exchange: Exchange) -> None:
    """Relay until either side ends. The caller closes both streams.

    Raises: OSError: either side broke off, or broke the protocol in the middle of an answer.
    """
    relay = _Relay(guest, upstream, exchange)
    try:
        while await relay.wait_for_request():
            following = await relay.exchange_once()
            if following is _Next.TUNNEL:
                await relay.tunnel()
            if following is not _Next.REQUEST:
                break
    finally:
        await relay.stop()


async def answer_with_refusal(guest: Stream, refusal: RefusedRequestError) -> None:
    """Answer the guest's first request with a refusal, without an upstream. Raises: OSError."""
    relay = _Relay(guest, None, None)
    try:
        if await relay.wait_for_request():
            with contextlib.suppress(RefusedRequestError):
                await relay.read_request()
            await relay.refuse(refusal)
    finally:
        await relay.stop()


class _Relay:
    def __init__(self, guest: Stream, upstream: Stream | None, exchange: Exchange | None) -> None:
        self._guest, self._upstream, self._exchange = guest, upstream, exchange
        self._from_guest = ReadAhead(guest)
        self._from_upstream = None if upstream is None else ReadAhead(upstream)
        self._server = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self._client = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self._is_head = False
        self._events = 0
        self._replaced: tuple[bytes, ...] = ()
        """Names of the injected headers, which trailers must not have either."""

    async def stop(self) -> None:
        """End the reads that are under way."""
        await self._from_guest.stop()
        if self._from_upstream is not None:
            await self._from_upstream.stop()

    async def wait_for_request(self) -> bool:
        """Wait for the first byte of a request. False: a side ended, or the upstream spoke unasked."""
        if self._server.trailing_data[0]:
            return True
        reads = {self._from_guest.begin()} | (set() if self._from_upstream is None else {self._from_upstream.begin()})
        await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
        if self._from_upstream is not None and self._from_upstream.begin().done():
            return False
        data = await self._from_guest.read()
        self._server.receive_data(data)
        return bool(data)

    # ---- one exchange ----

    async def exchange_once(self) -> _Next:
        """Relay one request and its answer. Raises: OSError."""
        assert self._exchange is not None
        try:
            request = await self._checked_request()
        except RefusedRequestError as refusal:
            self._exchange.note(refusal)
            await self.refuse(refusal)
            return _Next.END
        await self._to_upstream(request)
        sending = asyncio.create_task(self._relay_request_body())
        receiving = asyncio.create_task(self._relay_response())
        try:
            return await self._follow(sending, receiving)
        finally:
            sending.cancel()
            receiving.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)

    async def _follow(self, sending: asyncio.Task[None], receiving: asyncio.Task[_Next]) -> _Next:
        await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done() and isinstance(sending.exception(), _GuestBrokeOffError):
            sending.result()
        if sending.done() and not receiving.done():
            await self._watch_guest(receiving)
        following = await receiving  # an upstream that takes no more of the request may still answer
        if following is not _Next.REQUEST:
            return following
        if not sending.done() and not self._server.they_are_waiting_for_100_continue:
            await asyncio.wait({sending}, timeout=_LATE_BODY_S)
        if not sending.done() or sending.exception() is not None:
            return _Next.END
        if self._server.our_state is not h11.DONE or self._client.our_state is not h11.DONE:
            return _Next.END
        if self._server.their_state is not h11.DONE or self._client.their_state is not h11.DONE or self._client.trailing_data[0]:
            return _Next.END  # a side wants to close, or the upstream sent more than it was asked for
        self._server.start_next_cycle()
        self._client.start_next_cycle()
        return _Next.REQUEST

    async def _watch_guest(self, receiving: asyncio.Task[_Next]) -> None:
        """Return when the answer is complete or the guest has sent more. Raises: OSError: the guest left before."""
        reading = self._from_guest.begin()
        await asyncio.wait({reading, receiving}, return_when=asyncio.FIRST_COMPLETED)
        if reading.done() and not receiving.done() and not reading.result() and not self._guest.can_half_close:
            raise _GuestBrokeOffError("the guest left")

    async def read_request(self) -> h11.Request:
        """The head of the next request. Raises: RefusedRequestError; OSError: the guest ended within it."""
        try:
            async with asyncio.timeout(_HEAD_S):
                await self._receive_head()
        except TimeoutError as error:
            raise RefusedRequestError(408, "the request's head took too long") from error
        try:
            request = self._server.next_event()
        except h11.RemoteProtocolError as error:
            raise RefusedRequestError(error.error_status_hint, "the request is malformed") from error
        if not isinstance(request, h11.Request):
            raise RefusedRequestError(400, "the request is malformed")
        self._is_head = request.method == b"HEAD"
        return request

    async def _receive_head(self) -> None:
        seen = 0
        while True:
            raw = self._server.trailing_data[0]
            begin = max(0, seen - len(_BLANK_LINE))  # each byte is read once, however small the parts are
            end = raw.find(_BLANK_LINE, begin)
            seen = len(raw)
            if _MISREAD.search(raw[: end + 2] if end >= 0 else raw.removesuffix(b"\r"), begin):
                raise RefusedRequestError(400, "the request's head has line ends or characters that servers read differently")
            if end >= 0:
                return
            if len(raw) > _MAX_HEAD_BYTES:
                raise RefusedRequestError(431, "the request's head is too long")
            data = await self._from_guest.read()
            if not data:
                raise _GuestBrokeOffError("the guest ended within a request's head")
            self._server.receive_data(data)

    async def _checked_request(self) -> h11.Request:
        assert self._exchange is not None
        request = await self.read_request()
        destination = self._exchange.destination
        names = [bytes(name) for name, _ in request.headers]
        check_method(request.method)
        if b"content-length" in names and b"transfer-encoding" in names:
            raise RefusedRequestError(400, "the request has both a length and a transfer coding")
        hosts = [value for name, value in request.headers if name == b"host"]
        if len(hosts) != 1:
            raise RefusedRequestError(400, "the request has not exactly one Host")
        check_host(hosts[0], destination)
        target = origin_form(request.target, destination)
        injected = await self._exchange.injected()
        self._replaced = tuple(name.lower() for name, _ in injected)
        headers = with_injected(_without_other_upgrades(request), injected)
        return h11.Request(method=request.method, target=target, headers=headers)  # in version 1.1, whatever the guest has

    async def refuse(self, refusal: RefusedRequestError) -> None:
        """Answer a request that is not forwarded. The connection ends then. Raises: OSError."""
        if self._server.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        headers = [*refusal_headers(refusal), (b"connection", b"close")]
        parts: list[h11.Event] = [h11.Response(status_code=refusal.status, headers=headers, reason=b"Refused")]
        if not self._is_head:
            parts.append(h11.Data(data=refusal_body(refusal)))
        await self._guest.write(b"".join(self._server.send(part) or b"" for part in parts))
        await linger(self._from_guest, self._guest)

    # ---- bodies ----

    async def _turn(self) -> None:
        """Count an event, and let others do their work before each piece of them: small parts of a body come without a wait."""
        if self._events % PIECE == 0 and self._exchange is not None:
            await self._exchange.pace.turn()
        self._events += 1

    async def _relay_request_body(self) -> None:
        while True:
            await self._turn()
            try:
                event = self._server.next_event()
            except h11.RemoteProtocolError as error:
                raise _GuestBrokeOffError("the request's body is malformed") from error
            if event is h11.NEED_DATA:
                data = await self._from_guest.read()
                if not data:
                    raise _GuestBrokeOffError("the guest ended within a request")
                self._server.receive_data(data)
            elif isinstance(event, h11.EndOfMessage):
                return await self._to_upstream(h11.EndOfMessage(headers=without_names(event.headers.raw_items(), self._replaced)))
            elif isinstance(event, h11.Data):
                await self._to_upstream(event)
            else:
                raise _GuestBrokeOffError("the guest ended within a request")

    async def _relay_response(self) -> _Next:
        assert self._from_upstream is not None
        while True:
            await self._turn()
            try:
                event = self._client.next_event()
                if event is h11.NEED_DATA:
                    self._client.receive_data(await self._from_upstream.read())
                    continue
            except (h11.RemoteProtocolError, OSError) as error:
                return await self._upstream_failed(error)
            if not isinstance(event, h11.Event) or isinstance(event, h11.ConnectionClosed):
                return await self._upstream_failed(ConnectionResetError("it closed the connection without an answer"))
            if (following := await self._pass_answer(event)) is not None:
                return following

    async def _pass_answer(self, event: h11.Event) -> _Next | None:
        """Pass on a part of the answer; what follows, if that was the last one. Raises: OSError."""
        if isinstance(event, h11.InformationalResponse):
            is_switch = event.status_code == 101
            if is_switch or self._server.their_http_version != b"1.0":
                headers = event.headers.raw_items()
                await self._to_guest(h11.InformationalResponse(status_code=event.status_code, headers=headers, reason=event.reason))
            return _Next.TUNNEL if is_switch else None
        if isinstance(event, h11.Response):
            # Over QUIC, which alt-svc would offer, requests would not get their headers.
            headers = without_names(event.headers.raw_items(), (b"alt-svc",))
            await self._to_guest(h11.Response(status_code=event.status_code, headers=headers, reason=event.reason))
            return None
        if isinstance(event, h11.EndOfMessage):
            self._check_untruncated()
            await self._to_guest(h11.EndOfMessage(headers=event.headers.raw_items()))
            return _Next.REQUEST
        await self._to_guest(event)
        return None

    def _check_untruncated(self) -> None:
        assert self._upstream is not None
        if self._upstream.was_truncated:
            raise ConnectionResetError("the upstream broke off")

    async def _upstream_failed(self, error: Exception) -> _Next:
        """Answer 502, unless an answer has begun. Raises: OSError."""
        if self._server.our_state is not h11.SEND_RESPONSE:
            raise ConnectionResetError("the upstream broke off") from error
        await self.refuse(RefusedRequestError(502, "the server of this host gave no valid answer"))
        return _Next.END

    async def tunnel(self) -> None:
        """Relay bytes in both directions, after a 101. Raises: OSError."""
        assert self._upstream is not None
        assert self._from_upstream is not None
        await self._guest.write(self._client.trailing_data[0])
        await self._upstream.write(self._server.trailing_data[0])
        directions = [
            asyncio.create_task(relay_bytes(self._from_guest, self._upstream)),
            asyncio.create_task(relay_bytes(self._from_upstream, self._guest)),
        ]
        try:
            await asyncio.gather(*directions)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    async def _to_guest(self, event: h11.Event) -> None:
        try:
            data = self._server.send(event)
        except h11.LocalProtocolError as error:
            raise ConnectionResetError("the upstream's answer cannot be passed on") from error
        if data:
            await self._guest.write(data)

    async def _to_upstream(self, event: h11.Event) -> None:
        assert self._upstream is not None
        try:
            data = self._client.send(event)
        except h11.LocalProtocolError as error:
            raise _GuestBrokeOffError("the request cannot be passed on") from error
        if data:
            await self._upstream.write(data)


class _GuestBrokeOffError(ConnectionResetError):
    """The guest left, or broke the protocol, in the middle of a request."""


def _without_other_upgrades(request: h11.Request) -> Headers:
    """The headers, without the wish for another protocol than WebSocket (h2c would go past all checks)."""
    headers = [(bytes(name), bytes(value)) for name, value in request.headers.raw_items()]
    wishes = [value.strip().lower() for name, value in request.headers if name == b"upgrade"]
    if wishes in ([], [b"websocket"]):
        return headers
    kept = without_names(headers, (b"upgrade", b"http2-settings"))
    return [(name, _without_upgrade_token(value) if name.lower() == b"connection" else value) for name, value in kept]


def _without_upgrade_token(value: bytes) -> bytes:
    tokens = (token.strip() for token in value.split(b","))
    return b", ".join(token for token in tokens if token.lower() not in (b"upgrade", b"http2-settings")) or b"keep-alive"
