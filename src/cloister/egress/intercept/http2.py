"""Relays HTTP/2 between a guest and its upstream: each stream of the one side becomes one of the other.

Every request is checked by itself, because clients use one connection for several hosts that share a certificate. Bodies wait in a stream's
flow until the other side has room for them; their sender gets room for more when they have left. Trailers and interim answers pass; pushes
and extended CONNECT are not offered. Source: RFC 9113, RFC 8441.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from h2 import events
from h2.errors import ErrorCodes
from h2.exceptions import NoAvailableStreamIDError, ProtocolError, TooManyStreamsError
from hpack import NeverIndexedHeaderTuple

from cloister.egress.intercept.exchange import Exchange, refusal_body, refusal_headers
from cloister.egress.intercept.http2_frames import FloodError, Frame, Goaway
from cloister.egress.intercept.http2_side import FEW_STREAMS, MAX_STREAMS, Side
from cloister.egress.intercept.requests import (
    Destination,
    Headers,
    RefusedRequestError,
    check_host,
    check_method,
    origin_form,
    with_injected,
    without_names,
)
from cloister.egress.intercept.streams import Stream
from cloister.egress.pace import PIECE

__all__ = ["refuse_http2", "relay_http2"]

_SETTINGS_S = 15.0
_SMALL_BYTES = 2048


async def relay_http2(guest: Stream, upstream: Stream, exchange: Exchange) -> None:
    """Relay until the guest or, with the last stream, the upstream ends. The caller closes both streams. Raises: OSError."""
    await _Relay(guest, upstream, exchange).run()


async def refuse_http2(guest: Stream, refusal: RefusedRequestError, exchange: Exchange) -> None:
    """Answer all requests of a guest with a refusal, without an upstream. Raises: OSError."""

    async def refuse() -> Headers:
        raise refusal

    await _Relay(guest, None, Exchange(exchange.destination, refuse)).run()


@dataclass
class _Flow:
    """The body of a request or an answer on its way."""

    waiting: deque[bytes | memoryview] = field(default_factory=deque)
    trailers: Headers | None = None
    has_ended: bool = False
    """Its sender has sent all of it."""
    is_finished: bool = False
    """All of it has been passed on."""

    @property
    def is_empty(self) -> bool:
        return not self.waiting and self.trailers is None


@dataclass
class _Stream:
    guest_id: int
    head: Headers
    upstream_id: int | None = None
    request: _Flow = field(default_factory=_Flow)
    answer: _Flow = field(default_factory=_Flow)
    replaced: tuple[bytes, ...] = ()
    """Names of the injected headers, which trailers must not have either."""
    is_refused: bool = False
    late_reset: int | None = None
    """The upstream's reset, which comes after an answer that still waits."""


class _Relay:
    def __init__(self, guest: Stream, upstream: Stream | None, exchange: Exchange) -> None:
        self._guest = Side(guest, is_guest=True)
        self._upstream = None if upstream is None else Side(upstream, is_guest=False)
        self._exchange = exchange
        self._streams: dict[int, _Stream] = {}
        self._by_upstream: dict[int, _Stream] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self._settled = asyncio.Event()
        self._drained = asyncio.Event()

    async def run(self) -> None:
        tasks: list[asyncio.Task[None]] = []
        try:
            if self._upstream is not None:
                self._upstream.begin(is_wide=self._exchange.is_wide)
                await self._upstream.flush()
                tasks.append(asyncio.create_task(self._read_upstream(self._upstream)))
                await self._wait_settled(tasks[0])
            self._guest.begin(self._max_streams(), is_wide=self._exchange.is_wide)
            await self._guest.flush()
            tasks += [asyncio.create_task(self._read(self._guest)), asyncio.create_task(_wait(self._drained))]
            await asyncio.wait(tasks[-2:], return_when=asyncio.FIRST_COMPLETED)
            if tasks[-2].done():
                tasks[-2].result()
        finally:
            tasks += self._opening
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(OSError):
                await self._guest.flush()  # perhaps a GOAWAY with the reason

    async def _wait_settled(self, reading: asyncio.Task[None]) -> None:
        """Wait for the upstream's settings: the guest may not open more streams than it takes."""
        settled = asyncio.create_task(_wait(self._settled))
        try:
            done, _ = await asyncio.wait({settled, reading}, timeout=_SETTINGS_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            settled.cancel()
        if reading in done:
            reading.result()
        if not self._settled.is_set():
            raise ConnectionResetError("the upstream does not speak HTTP/2")

    def _max_streams(self) -> int:
        taken = MAX_STREAMS if self._upstream is None else self._upstream.connection.remote_settings.max_concurrent_streams
        return min(MAX_STREAMS if self._exchange.is_wide else FEW_STREAMS, taken)

    # ---- reading ----

    async def _read_upstream(self, upstream: Side) -> None:
        """Read until the upstream ends; answers that are complete still go to the guest."""
        with contextlib.suppress(OSError):  # the guest's streams are told below
            await self._read(upstream)
        self._drain(-1)
        await self._flush()

    async def _read(self, side: Side) -> None:
        """Raises: OSError."""
        try:
            while data := await side.io.read():
                frames = side.frames.feed(data)
                await self._exchange.pace.turn()
                while batch := list(islice(frames, PIECE)):
                    self._take(side, batch)
                    await self._flush()
                    await self._exchange.pace.turn()
        except FloodError as error:
            side.end(ErrorCodes.ENHANCE_YOUR_CALM)
            raise ConnectionResetError(str(error)) from error
        except ProtocolError as error:
            raise ConnectionResetError("a side broke HTTP/2") from error

    def _take(self, side: Side, frames: Iterable[Frame]) -> None:
        for frame in frames:
            if frame.goaway is not None:
                self._take_goaway(side, frame.goaway)
                continue
            for event in side.receive(frame.data):
                if side.is_guest:
                    self._take_from_guest(event)
                else:
                    self._take_from_upstream(event)

    def _take_goaway(self, side: Side, goaway: Goaway) -> None:
        if not side.is_guest:
            self._drain(goaway.last_stream_id)

    def _drain(self, last_upstream_id: int) -> None:
        """Begin no stream any more; the upstream does not answer those above that one (-1: none that it has not answered)."""
        is_news, self._is_draining = not self._is_draining, True
        for stream in list(self._streams.values()):
            if stream.is_refused or stream.answer.has_ended:
                continue
            if stream.upstream_id is None or stream.upstream_id > last_upstream_id:
                never_began = last_upstream_id >= 0 or stream.upstream_id is None
                self._guest.reset(stream.guest_id, ErrorCodes.REFUSED_STREAM if never_began else ErrorCodes.INTERNAL_ERROR)
                self._forget(stream)
        if is_news:  # last, because some clients read no frame of a stream after it
            self._guest.refuse_more(self._guest.connection.highest_inbound_stream_id)
        self._check_drained()

    def _check_drained(self) -> None:
        if self._is_draining and not self._streams:
            self._drained.set()

    async def _flush(self) -> None:
        await self._guest.flush()
        if self._upstream is not None:
            await self._upstream.flush()

    # ---- the guest's events ----

    def _take_from_guest(self, event: events.Event) -> None:
        if isinstance(event, events.RequestReceived):
            self._begin(event)
        elif isinstance(event, (events.WindowUpdated, events.RemoteSettingsChanged)):
            self._move_all(getattr(event, "stream_id", 0) or 0, by=self._streams)
        elif isinstance(event, events.DataReceived):
            self._take_data(self._guest, event, self._streams.get(event.stream_id))
        elif isinstance(event, events.TrailersReceived):
            if stream := self._streams.get(event.stream_id):
                stream.request.trailers = without_names(event.headers, stream.replaced)
        elif isinstance(event, events.StreamEnded):
            if stream := self._streams.get(event.stream_id):
                stream.request.has_ended = True
                self._move(stream)
        elif isinstance(event, events.StreamReset) and (stream := self._streams.get(event.stream_id)):
            if stream.upstream_id is not None and self._upstream is not None:
                self._upstream.reset(stream.upstream_id, event.error_code)
            self._forget(stream)

    def _begin(self, event: events.RequestReceived) -> None:
        if self._is_draining:
            self._guest.reset(event.stream_id, ErrorCodes.REFUSED_STREAM)
            return
        stream = _Stream(event.stream_id, list(event.headers))
        self._streams[stream.guest_id] = stream
        task = asyncio.create_task(self._open(stream))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, stream: _Stream) -> None:
        """Check a request, and pass its head on."""
        try:
            head = request_head(stream.head, self._exchange.destination)
            injected = await self._exchange.injected()
        except RefusedRequestError as refusal:
            self._exchange.note(refusal)
            self._refuse(stream, refusal)
        else:
            if self._streams.get(stream.guest_id) is stream:  # it may have been reset meanwhile
                self._send_head(stream, head, injected)
        with contextlib.suppress(OSError):  # the reader of that side finds out
            await self._flush()

    def _send_head(self, stream: _Stream, head: Headers, injected: Headers) -> None:
        assert self._upstream is not None
        hidden = [NeverIndexedHeaderTuple(name.lower(), value) for name, value in injected]
        stream.replaced = tuple(name.lower() for name, _ in injected)
        if stream.request.trailers is not None:
            stream.request.trailers = without_names(stream.request.trailers, stream.replaced)
        is_whole = stream.request.has_ended and stream.request.is_empty
        connection = self._upstream.connection
        try:
            upstream_id = connection.get_next_available_stream_id()
            connection.send_headers(upstream_id, with_injected(head, hidden), end_stream=is_whole)
        except (TooManyStreamsError, NoAvailableStreamIDError, ProtocolError):
            self._guest.reset(stream.guest_id, ErrorCodes.REFUSED_STREAM)  # nothing was sent: it may try again
            self._forget(stream)
            return
        stream.upstream_id, stream.request.is_finished = upstream_id, is_whole
        self._by_upstream[upstream_id] = stream
        self._move(stream)

    def _refuse(self, stream: _Stream, refusal: RefusedRequestError) -> None:
        if self._streams.get(stream.guest_id) is not stream:
            return
        stream.is_refused = True
        self._drop(self._guest, stream.guest_id, stream.request)
        with contextlib.suppress(ProtocolError):
            status = (b":status", str(refusal.status).encode())
            self._guest.connection.send_headers(stream.guest_id, [status, *refusal_headers(refusal)])
            if (b":method", b"HEAD") not in stream.head:
                stream.answer.waiting.append(refusal_body(refusal))
        stream.answer.has_ended = True
        self._move(stream)

    # ---- the upstream's events ----

    def _take_from_upstream(self, event: events.Event) -> None:
        if isinstance(event, events.RemoteSettingsChanged):
            self._settled.set()
            self._move_all(0, by=self._by_upstream)
            return
        if isinstance(event, events.WindowUpdated):
            self._move_all(event.stream_id or 0, by=self._by_upstream)
            return
        stream = self._by_upstream.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, events.DataReceived):
            self._take_data(self._upstream, event, stream)
        elif stream is None:
            return
        elif isinstance(event, (events.ResponseReceived, events.InformationalResponseReceived)):
            self._pass_answer_head(stream, event)
        elif isinstance(event, events.TrailersReceived):
            stream.answer.trailers = list(event.headers)
        elif isinstance(event, events.StreamEnded):
            stream.answer.has_ended = True
            self._move(stream)
        elif isinstance(event, events.StreamReset):
            self._take_reset(stream, event.error_code)

    def _pass_answer_head(self, stream: _Stream, event: events.ResponseReceived | events.InformationalResponseReceived) -> None:
        is_whole = isinstance(event, events.ResponseReceived) and event.stream_ended is not None
        try:
            self._guest.connection.send_headers(stream.guest_id, without_names(event.headers, (b"alt-svc",)), end_stream=is_whole)
        except ProtocolError:
            self._break(stream)
        else:
            stream.answer.is_finished = is_whole

    def _take_reset(self, stream: _Stream, code: int) -> None:
        if stream.answer.has_ended and not stream.answer.is_finished:
            stream.late_reset = code  # a complete answer first
            self._drop(self._guest, stream.guest_id, stream.request)
            return
        self._guest.reset(stream.guest_id, code)
        self._forget(stream)

    # ---- bodies ----

    def _take_data(self, side: Side | None, event: events.DataReceived, stream: _Stream | None) -> None:
        assert side is not None
        flow = None if stream is None else stream.request if side.is_guest else stream.answer
        kept = 0
        if stream is not None and flow is not None and not flow.is_finished:
            kept = len(event.data)
            if event.data and flow.waiting and len(flow.waiting[-1]) < _SMALL_BYTES:
                flow.waiting[-1] = bytes(flow.waiting[-1]) + event.data  # an object for each would be larger than its bytes
            elif event.data:
                flow.waiting.append(event.data)
        if event.flow_controlled_length > kept:  # padding, or a body that no side wants any more
            side.connection.acknowledge_received_data(event.flow_controlled_length - kept, event.stream_id)
        if kept and stream is not None:
            self._move(stream)

    def _move_all(self, stream_id: int, *, by: dict[int, _Stream]) -> None:
        streams = list(by.values()) if stream_id == 0 else [by[stream_id]] if stream_id in by else []
        for stream in streams:
            self._move(stream)

    def _move(self, stream: _Stream) -> None:
        """Pass on what there is room for, in both directions."""
        try:
            if self._upstream is not None and stream.upstream_id is not None:
                _move_flow(stream.request, self._guest, stream.guest_id, self._upstream, stream.upstream_id)
            _move_flow(stream.answer, self._upstream, stream.upstream_id, self._guest, stream.guest_id)
        except ProtocolError:
            self._break(stream)
            return
        if not stream.answer.is_finished:
            return
        if stream.late_reset is not None or (stream.is_refused and not stream.request.has_ended):
            self._guest.reset(stream.guest_id, stream.late_reset or ErrorCodes.NO_ERROR)
            self._forget(stream)
        elif stream.request.is_finished:
            self._forget(stream)

    def _drop(self, side: Side, stream_id: int, flow: _Flow) -> None:
        """Forget what waits in a flow, and give its sender the room back."""
        size = sum(len(part) for part in flow.waiting)
        flow.waiting.clear()
        flow.trailers, flow.is_finished = None, True
        if size:
            side.connection.acknowledge_received_data(size, stream_id)

    def _break(self, stream: _Stream) -> None:
        """The two sides do not agree about a stream any more."""
        self._guest.reset(stream.guest_id, ErrorCodes.INTERNAL_ERROR)
        if stream.upstream_id is not None and self._upstream is not None:
            self._upstream.reset(stream.upstream_id, ErrorCodes.CANCEL)
        self._forget(stream)

    def _forget(self, stream: _Stream) -> None:
        self._drop(self._guest, stream.guest_id, stream.request)
        if stream.upstream_id is not None and self._upstream is not None:
            self._drop(self._upstream, stream.upstream_id, stream.answer)
            self._by_upstream.pop(stream.upstream_id, None)
        self._streams.pop(stream.guest_id, None)
        self._check_drained()


def request_head(headers: Headers, destination: Destination) -> Headers:
    """The head of a request as it is passed on, without injected headers. Raises: RefusedRequestError."""
    pseudo = {bytes(name): bytes(value) for name, value in headers if name.startswith(b":")}
    check_method(pseudo.get(b":method", b""))
    hosts = [bytes(value) for name, value in headers if name == b"host"]
    authorities = [*([pseudo[b":authority"]] if b":authority" in pseudo else []), *hosts]
    if not authorities or len(hosts) > 1:
        raise RefusedRequestError(400, "the request has not exactly one host")
    for authority in authorities:
        check_host(authority, destination)
    if pseudo.get(b":scheme") != destination.scheme.encode():
        raise RefusedRequestError(421, "the request has another scheme than its connection")
    path = pseudo.get(b":path", b"")
    if origin_form(path, destination) != path:
        raise RefusedRequestError(400, "the request's path is malformed")
    first = [(b":method", pseudo[b":method"]), (b":scheme", pseudo[b":scheme"]), (b":authority", authorities[0]), (b":path", path)]
    return [*first, *(header for header in headers if not header[0].startswith(b":") and header[0] != b"host")]


def _move_flow(flow: _Flow, source: Side | None, source_id: int | None, sink: Side, sink_id: int) -> None:
    """Raises: ProtocolError."""
    if flow.is_finished:
        return
    while flow.waiting:
        room = sink.room(sink_id)
        if room <= 0:
            return
        chunk = flow.waiting.popleft()
        if len(chunk) > room:
            flow.waiting.appendleft(memoryview(chunk)[room:])
            chunk = memoryview(chunk)[:room]
        is_last = flow.has_ended and flow.is_empty
        sink.send_data(sink_id, bytes(chunk), is_last=is_last)
        if source is not None and source_id is not None:
            source.connection.acknowledge_received_data(len(chunk), source_id)
        flow.is_finished = is_last
    if flow.has_ended and not flow.is_finished:
        if flow.trailers is not None:
            sink.connection.send_headers(sink_id, flow.trailers, end_stream=True)
        else:
            sink.connection.end_stream(sink_id)
        flow.is_finished = True


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
