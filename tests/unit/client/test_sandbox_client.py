"""Calls to a sandbox whose agent is hostile."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cloister.client.sandbox import SandboxClient
from cloister.errors import InternalError, UnavailableError

LONG = 33 << 20


async def test_an_agent_cannot_redirect_its_client() -> None:
    """A redirect is an error: the client asks no other address, such as one that only its own machine can reach."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        sandbox = SandboxClient(session, str(server.make_url("")).rstrip("/"), "s", None)
        with pytest.raises(UnavailableError):
            await sandbox.stat("/", None)
        with pytest.raises(UnavailableError):
            await sandbox.write("/x", b"", None)
    assert asked == ["/filesystem.Filesystem/Stat", "/files"]


@pytest.mark.parametrize("status", [200, 500])
async def test_an_agent_cannot_fill_the_memory_of_its_client(status: int) -> None:
    """An answer longer than a message may be is refused, and read no further."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        for _ in range(LONG >> 20):
            await response.write(bytes(1 << 20))
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        sandbox = SandboxClient(session, str(server.make_url("")).rstrip("/"), "s", None)
        with pytest.raises(InternalError, match="too long"):
            await sandbox.stat("/", None)
