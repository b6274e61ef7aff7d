"""Whether an agent answers, as the control plane asks before a pause."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from cloister.agentclient.health import AgentHealth
from cloister.errors import CloisterError, ConflictError, NodeUnreachableError


@asynccontextmanager
async def asking(connector: aiohttp.BaseConnector, timeout_s: float = 20.0) -> AsyncIterator[AgentHealth]:
    """A client over ``connector``."""
    health = AgentHealth(connector, timeout_s=timeout_s)
    try:
        yield health
    finally:
        await health.close()
        await connector.close()


@asynccontextmanager
async def agent(path: Path, status: int | None) -> AsyncIterator[None]:
    """An agent that answers ``status``, or never."""

    async def answer(_request: web.Request) -> web.Response:
        if status is None:
            await asyncio.sleep(60)
        return web.Response(status=status or 204)

    app = web.Application()
    app.router.add_get("/health", answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.0)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("status", "answers"), [(204, True), (500, False), (302, False), (None, False)])
async def test_agent(tmp_path: Path, status: int | None, answers: bool) -> None:
    """A good status in time is an answer; another status, a redirect and silence are none."""
    path = tmp_path / "agent.sock"
    timeout_s = 0.05 if status is None else 20.0
    async with agent(path, status), asking(aiohttp.UnixConnector(str(path)), timeout_s) as health:
        assert await health.answers("sandbox") is answers


async def test_no_agent(tmp_path: Path) -> None:
    """A closed port is no answer."""
    async with asking(aiohttp.UnixConnector(str(tmp_path / "none.sock"))) as health:
        assert await health.answers("sandbox") is False


@pytest.mark.parametrize("error", [NodeUnreachableError("away"), ConflictError("it is paused")])
async def test_node_that_does_not_reach_the_sandbox(error: CloisterError) -> None:
    """It says nothing about the agent: the pause goes on, and the node answers that."""

    class Connector(aiohttp.BaseConnector):
        async def _create_connection(self, *_: object) -> aiohttp.client_proto.ResponseHandler:
            raise error

    async with asking(Connector()) as health:
        assert await health.answers("sandbox") is True
