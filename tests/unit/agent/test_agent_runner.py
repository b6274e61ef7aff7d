"""The agent's HTTP servers below their applications."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from cloister.agent.runner import AgentRunner


async def exchange(head: bytes, body: bytes = b"") -> bytes:
    """The answer of a server with one route to ``head``, followed by ``body``."""
    app = web.Application()
    app.router.add_post("/echo", echo)
    runner = AgentRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0]
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
