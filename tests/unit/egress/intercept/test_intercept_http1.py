"""HTTP/1.1 through the interceptor: what reaches the upstream, and what the guest gets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cloister.egress.streams import ByteStream
from cloister.errors import NotFoundError
from framework.intercept_lab import HOST, FakeValues, ScriptedUpstream, ask, get, known_values, open_lab, server_context

OK = ScriptedUpstream.OK


async def test_a_request_gets_the_header_of_the_rule_over_tls(tmp_path: Path) -> None:
    """The upstream sees the secret in place of the placeholder."""
    upstream = ScriptedUpstream()
    async with open_lab(upstream, server_context(tmp_path), values=known_values()) as lab:
        answer = await ask(await lab.connect(), get())
    assert answer.endswith(b"ok")
    assert b"Authorization: Bearer sk-1234\r\n" in upstream.received


async def test_a_request_gets_the_header_of_the_rule_without_tls() -> None:
    """The same on port 80."""
    upstream = ScriptedUpstream()
    async with open_lab(upstream, None, values=known_values()) as lab:
        answer = await ask(await lab.connect_plain(), get())
    assert answer.endswith(b"ok")
    assert b"Authorization: Bearer sk-1234\r\n" in upstream.received


async def test_the_headers_of_the_rule_replace_those_of_the_guest(tmp_path: Path) -> None:
    """All of the same name go, in any case."""
    upstream = ScriptedUpstream()
    async with open_lab(upstream, server_context(tmp_path), values=known_values()) as lab:
        await ask(await lab.connect(), get("AUTHORIZATION: mine", "authorization: mine too", "X-Other: stays"))
    assert upstream.received.lower().count(b"authorization:") == 1
    assert b"mine" not in upstream.received
    assert b"X-Other: stays\r\n" in upstream.received


async def test_a_connection_takes_several_requests(tmp_path: Path) -> None:
    """Keep-alive works, and pipelined requests are answered in order."""
    upstream = ScriptedUpstream(OK, OK.replace(b"ok", b"no"), OK)
    async with open_lab(upstream, server_context(tmp_path), values=known_values()) as lab:
        alive = get().replace(b"Connection: close\r\n", b"")
        answer = await ask(await lab.connect(), alive + alive + get())
    assert [part[-2:] for part in answer.split(b"HTTP/1.1 200 OK")[1:]] == [b"ok", b"no", b"ok"]
    assert upstream.received.count(b"Bearer sk-1234") == 3


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-End: 1\r\n\r\n", b"3\r\nabc\r\n0\r\nX-End: 1\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK, b"103 Early Hints"),
        (b"HTTP/1.1 204 No Content\r\nX-Odd-CASE: 1\r\n\r\n", b"X-Odd-CASE: 1"),
    ],
)
async def test_forms_of_answers_pass(tmp_path: Path, answer: bytes, shown: bytes) -> None:
    """Chunks, trailers, bodies without a length and interim answers come to the guest."""
    async with open_lab(ScriptedUpstream(answer), server_context(tmp_path), values=known_values()) as lab:
        assert shown in await ask(await lab.connect(), get())


async def test_head_has_a_length_and_no_body(tmp_path: Path) -> None:
    """A length without a body does not hold up the connection."""
    upstream = ScriptedUpstream(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", OK)
    async with open_lab(upstream, server_context(tmp_path), values=known_values()) as lab:
        alive = get(method="HEAD").replace(b"Connection: close\r\n", b"")
        answer = await ask(await lab.connect(), alive + get())
    assert b"Content-Length: 500" in answer
    assert answer.endswith(b"ok")


async def test_a_body_waits_for_100_continue(tmp_path: Path) -> None:
    """The expectation and the interim answer pass."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(4)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\n" + body)
        writer.close()

    async with open_lab(serve, server_context(tmp_path), values=known_values()) as lab:
        reader, writer = await lab.connect()
        writer.write(get("Expect: 100-continue", "Content-Length: 4", method="POST"))
        assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"body")
        assert (await reader.read()).endswith(b"body")
        writer.close()


async def test_a_websocket_becomes_a_tunnel(tmp_path: Path) -> None:
    """After 101 bytes pass in both directions, and the secret came with the request alone."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Bearer sk-1234" in head
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst")
        writer.write(await reader.readexactly(5))
        writer.close()

    async with open_lab(serve, server_context(tmp_path), values=known_values()) as lab:
        request = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode()
        reader, writer = await lab.connect()
        writer.write(request)
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(5) == b"first"
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()


async def test_a_secret_that_is_not_there_refuses_the_request(tmp_path: Path) -> None:
    """Nothing is forwarded, and the text names the secret, not a value."""
    upstream = ScriptedUpstream()
    missing = FakeValues(error=NotFoundError("there is no secret 'key'"))
    async with open_lab(upstream, server_context(tmp_path), values=missing) as lab:
        answer = await ask(await lab.connect(), get())
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"there is no secret 'key'" in answer
    assert upstream.received == b""


async def test_an_upstream_that_is_not_there_is_502(tmp_path: Path) -> None:
    """The guest reads that there is no connection."""
    async with open_lab(ScriptedUpstream(), server_context(tmp_path), values=known_values()) as lab:

        async def refuse() -> ByteStream:
            raise ConnectionRefusedError

        lab.dial = refuse
        answer = await ask(await lab.connect(), get())
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"connection refused" in answer


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"])
async def test_an_upstream_that_gives_no_answer_is_502(tmp_path: Path, answer: bytes) -> None:
    """The guest does not wait for ever."""
    async with open_lab(ScriptedUpstream(answer), server_context(tmp_path), values=known_values()) as lab:
        assert (await ask(await lab.connect(), get())).startswith(b"HTTP/1.1 502 ")


async def test_events_come_at_once(tmp_path: Path) -> None:
    """An event of a stream reaches the guest before the next one exists."""
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
        await go_on.wait()
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        writer.close()

    async with open_lab(serve, server_context(tmp_path), values=known_values()) as lab:
        reader, writer = await lab.connect()
        writer.write(get())
        assert await reader.readuntil(b"data: 1\n\n")
        go_on.set()
        assert await reader.readuntil(b"data: 2\n\n")
        writer.close()
