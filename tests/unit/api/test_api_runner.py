"""The API's HTTP server below its application."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from cloister.api.connections import ConnectionPolicy
from cloister.api.peers import Peers
from cloister.api.runner import JsonErrorRunner


async def exchange(head: bytes, body: bytes = b"") -> bytes:
    """The answer of a server with one route to ``head`` and then ``body``."""
    app = web.Application()
    app.router.add_post("/echo", echo)
    app.router.add_post("/broken", break_off)
    policy = ConnectionPolicy(most=10, most_per_peer=10, head_timeout_s=10, stall_timeout_s=10)
    runner = JsonErrorRunner(app, policy, Peers(()), access_log=None)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await runner.listen(listener)
    try:
        host, port = listener.getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(head + b"Host: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        return answer
    finally:
        await runner.cleanup()


async def echo(request: web.Request) -> web.Response:
    """The body back."""
    return web.Response(body=await request.read())


async def break_off(request: web.Request) -> web.StreamResponse:
    """Half an answer, as when a sandbox is killed while it sends."""
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"half")
    raise ConnectionResetError("the answer broke off")


@pytest.mark.parametrize("line", [b"POST /echo", b"POST /nowhere", b"PATCH /echo", b"OPTIONS *"])
@pytest.mark.parametrize("value", [b"100\x8fcontinue", b"\xff\xff", "é".encode()])
async def test_an_expectation_that_cannot_be_quoted_is_refused(line: bytes, value: bytes) -> None:
    """Bytes in ``Expect`` that no expectation has are the client's fault, whatever the route; they were an internal error once."""
    answer = await exchange(line + b" HTTP/1.1\r\nExpect: " + value + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 417 "), answer


async def test_other_expectations_are_as_before() -> None:
    """A client that waits for ``100 Continue`` gets it and its answer."""
    answer = await exchange(b"POST /echo HTTP/1.1\r\nExpect: 100-continue\r\n", b"body")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
    assert answer.endswith(b"body")


async def test_an_answer_that_breaks_off_is_no_fault_of_the_server() -> None:
    """The log says so in one line of information; the client sees the connection end."""
    with capture_logs() as logs:
        answer = await exchange(b"POST /broken HTTP/1.1\r\n")
    assert answer.endswith(b"half\r\n")
    assert [(line["event"], line["log_level"]) for line in logs] == [("answer.broken_off", "info")]
