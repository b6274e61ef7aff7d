"""HTTP/2 through the interceptor: streams, flow control, resets, and requests for other hosts on the same connection."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from h2 import events
from h2.errors import ErrorCodes

from cloister.egress.intercept.http2_frames import PREFACE, render_goaway
from framework.http2_peer import OK, Http2Peer, Http2Server, echo, opened_http2
from framework.intercept_lab import FakeValues, open_lab, server_context


async def test_the_guest_is_offered_what_the_upstream_chose(tmp_path: Path) -> None:
    """A guest that prefers HTTP/2 gets HTTP/1.1 when the upstream has nothing else."""
    for protocols, chosen in ((("h2", "http/1.1"), "h2"), (("http/1.1",), "http/1.1"), ((), None)):
        async with open_lab(Http2Server(echo), server_context(tmp_path, protocols=protocols)) as lab:
            _, writer = await lab.connect(protocols=("h2", "http/1.1"))
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen
            writer.close()


async def test_streams_get_the_header_of_the_rule(tmp_path: Path) -> None:
    """Several at once, and those of the guest of the same name go."""
    serve = Http2Server(echo)
    async with opened_http2(tmp_path, serve) as (_, guest):
        for number in (1, 3, 5):
            await guest.ask((b"authorization", b"mine"), (b"x-other", b"stays"), stream_id=number)
        await guest.wait(lambda: all(guest.stream(number).has_ended for number in (1, 3, 5)))
        for seen in serve.peers[0].streams.values():
            assert seen.header(b"authorization") == [b"Bearer sk-1234"]
            assert seen.header(b"x-other") == [b"stays"]


async def test_a_rule_that_cannot_be_followed_is_502(tmp_path: Path) -> None:
    """A failed question for values refuses the stream alone."""
    serve = Http2Server(echo)
    async with opened_http2(tmp_path, serve, FakeValues({"key": "a\nb"})) as (_, guest):
        seen = await guest.ask()
        await guest.wait(lambda: seen.has_ended)
        assert seen.header(b":status") == [b"502"]
        assert serve.peers[0].streams == {}


async def test_bodies_are_larger_than_all_windows(tmp_path: Path) -> None:
    """An upload and a download of 8 MiB in parallel, chunk by chunk."""
    size, chunk = 8 << 20, b"x" * 16_000

    def answer(peer: Http2Peer, event: events.Event) -> None:
        if isinstance(event, events.RequestReceived):
            peer.connection.send_headers(event.stream_id, OK)
        for number in list(peer.streams):
            sent = left.setdefault(number, size)
            while left[number] and (room := min(16_384, peer.connection.local_flow_control_window(number), left[number])) > 0:
                left[number] -= room
                peer.connection.send_data(number, b"y" * room, end_stream=not left[number])
            del sent

    left: dict[int, int] = {}
    serve = Http2Server(answer, keeps_bodies=False)
    async with opened_http2(tmp_path, serve, keeps_bodies=False) as (_, guest):
        seen = await guest.ask(method=b"POST", ends=False)
        await guest.send_body(1, chunk, 500)
        await guest.wait(lambda: seen.has_ended)
        assert seen.size == size
        await serve.peers[0].wait(lambda: serve.peers[0].streams[1].has_ended)
        assert serve.peers[0].streams[1].size == 500 * len(chunk)


async def test_trailers_pass_in_both_directions(tmp_path: Path) -> None:
    """As gRPC needs them; a trailer does not bring back a header that the rule replaced."""

    def answer(peer: Http2Peer, event: events.Event) -> None:
        if isinstance(event, events.StreamEnded):
            peer.connection.send_headers(event.stream_id, [*OK, (b"content-type", b"application/grpc")])
            peer.connection.send_data(event.stream_id, b"message")
            peer.connection.send_headers(event.stream_id, [(b"grpc-status", b"0")], end_stream=True)

    serve = Http2Server(answer)
    async with opened_http2(tmp_path, serve) as (_, guest):
        seen = await guest.ask((b"te", b"trailers"), method=b"POST", ends=False)
        guest.connection.send_data(1, b"abc")
        guest.connection.send_headers(1, [(b"x-end", b"1"), (b"authorization", b"mine")], end_stream=True)
        await guest.flush()
        await guest.wait(lambda: seen.has_ended)
        assert seen.trailers == [(b"grpc-status", b"0")]
        at_upstream = serve.peers[0].streams[1]
        assert at_upstream.trailers == [(b"x-end", b"1")]
        assert at_upstream.header(b"te") == [b"trailers"]


async def test_interim_answers_and_alternatives(tmp_path: Path) -> None:
    """103 passes; an offer of QUIC does not."""

    def answer(peer: Http2Peer, event: events.Event) -> None:
        if isinstance(event, events.StreamEnded):
            peer.connection.send_headers(event.stream_id, [(b":status", b"103"), (b"link", b"</a>")])
            peer.connection.send_headers(event.stream_id, [*OK, (b"alt-svc", b'h3=":443"')], end_stream=True)

    async with opened_http2(tmp_path, Http2Server(answer)) as (_, guest):
        seen = await guest.ask()
        await guest.wait(lambda: seen.has_ended)
        assert seen.informational[0][0] == (b":status", b"103")
        assert seen.header(b"alt-svc") == []


async def test_resets_pass_in_both_directions(tmp_path: Path) -> None:
    """With their codes; the connection lives on."""

    def answer(peer: Http2Peer, event: events.Event) -> None:
        if isinstance(event, events.RequestReceived) and event.stream_id == 3:
            peer.connection.reset_stream(3, ErrorCodes.INADEQUATE_SECURITY)
        if isinstance(event, events.StreamEnded) and event.stream_id > 3:
            echo(peer, event)

    serve = Http2Server(answer)
    async with opened_http2(tmp_path, serve) as (_, guest):
        await guest.ask(ends=False)
        upstream_reset = await guest.ask(stream_id=3)
        await guest.wait(lambda: upstream_reset.reset is not None)
        assert upstream_reset.reset == ErrorCodes.INADEQUATE_SECURITY
        guest.connection.reset_stream(1, ErrorCodes.CANCEL)
        last = await guest.ask(stream_id=5)
        await guest.wait(lambda: last.has_ended)
        assert serve.peers[0].streams[1].reset == ErrorCodes.CANCEL


async def test_an_answer_before_the_end_of_the_request(tmp_path: Path) -> None:
    """A complete answer and a reset without an error: the guest gets both, the answer first."""

    def answer(peer: Http2Peer, event: events.Event) -> None:
        if isinstance(event, events.RequestReceived):
            peer.connection.send_headers(event.stream_id, OK)
            peer.connection.send_data(event.stream_id, b"enough", end_stream=True)
            peer.connection.reset_stream(event.stream_id, ErrorCodes.NO_ERROR)

    async with opened_http2(tmp_path, Http2Server(answer)) as (_, guest):
        seen = await guest.ask(method=b"POST", ends=False)
        await guest.wait(lambda: seen.reset is not None)
        assert seen.body == b"enough"
        assert seen.has_ended
        assert seen.reset == ErrorCodes.NO_ERROR


async def test_streams_in_flight_survive_a_goaway(tmp_path: Path) -> None:
    """An upstream that wants no more requests still answers those that it has."""
    released = asyncio.Event()

    def answer(peer: Http2Peer, event: events.Event) -> None:
        if isinstance(event, events.StreamEnded):
            peer.writer.write(render_goaway(event.stream_id, 0))
            peer.connection.send_headers(event.stream_id, OK)
            waiting.append(asyncio.create_task(finish(peer, event.stream_id)))

    async def finish(peer: Http2Peer, stream_id: int) -> None:
        await released.wait()
        peer.connection.send_data(stream_id, b"late", end_stream=True)
        await peer.flush()

    waiting: list[asyncio.Task[None]] = []
    async with opened_http2(tmp_path, Http2Server(answer)) as (_, guest):
        receive, raw = guest.connection.receive_data, bytearray()

        def receive_most(data: Any) -> list[events.Event]:
            raw.extend(data)
            return receive(bytes(data).replace(render_goaway(1, 0), b""))  # h2 would take no frame after it

        guest.connection.receive_data = receive_most  # type: ignore[method-assign]  # the library is watched
        seen = await guest.ask()
        await guest.wait(lambda: bool(seen.headers))
        assert render_goaway(1, 0) in raw, "the guest is told to open no more streams"
        late = await guest.ask(stream_id=3)
        await guest.wait(lambda: late.reset is not None)
        assert late.reset == ErrorCodes.REFUSED_STREAM
        released.set()
        await guest.wait(lambda: seen.has_ended)
        assert seen.body == b"late"
        await guest.wait(lambda: guest.is_closed)


async def test_an_upstream_that_dies_resets_its_streams(tmp_path: Path) -> None:
    """The guest does not wait for ever."""

    def answer(peer: Http2Peer, event: events.Event) -> None:
        if isinstance(event, events.StreamEnded):
            peer.connection.send_headers(event.stream_id, OK)
            asyncio.get_running_loop().call_later(0.05, peer.writer.transport.abort)

    async with opened_http2(tmp_path, Http2Server(answer)) as (_, guest):
        seen = await guest.ask()
        await guest.wait(lambda: seen.reset is not None or guest.is_closed)
        assert not seen.has_ended
        assert seen.reset in (ErrorCodes.INTERNAL_ERROR, None)
        await guest.wait(lambda: guest.is_closed)


async def test_an_untrusted_upstream_is_502_in_http2_too(tmp_path: Path) -> None:
    """For a guest that offers HTTP/2 alone."""
    context = server_context(tmp_path, protocols=("h2",), authority="unknown")
    async with open_lab(Http2Server(echo), context) as lab:
        guest = Http2Peer(await lab.connect(protocols=("h2",)), is_client=True)
        running = asyncio.create_task(guest.run())
        seen = await guest.ask()
        await guest.wait(lambda: seen.has_ended)
        assert seen.header(b":status") == [b"502"]
        assert b"could not be verified" in seen.body
        running.cancel()
        guest.writer.close()


async def test_garbage_after_the_preface_ends_the_connection(tmp_path: Path) -> None:
    """It is a protocol error, and no request."""
    async with open_lab(Http2Server(echo), server_context(tmp_path, protocols=("h2",))) as lab:
        reader, writer = await lab.connect(protocols=("h2",))
        writer.write(PREFACE + b"\xff" * 100)
        with contextlib.suppress(ConnectionError):
            await reader.read()
            await reader.read()
        writer.close()
