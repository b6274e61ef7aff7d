"""An MCP client, the official one, for the gateway of a sandbox behind a server's one address."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx2
from e2b import Sandbox
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from framework.server import Server

__all__ = ["address", "ask", "tool_names", "tool_text"]

_T = TypeVar("_T")
_TIMEOUT_S = 60.0


def address(server: Server, sandbox_id: str) -> tuple[str, dict[str, str]]:
    """Where the gateway is, and the headers that say which sandbox's."""
    return f"{server.url}/mcp", {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(Sandbox.mcp_port)}


def ask(server: Server, sandbox_id: str, token: str, question: Callable[[Client], Awaitable[_T]]) -> _T:
    """The gateway's answer to ``question``, in a new session."""
    url, headers = address(server, sandbox_id)

    async def asked() -> _T:
        async with (
            httpx2.AsyncClient(headers={**headers, "Authorization": f"Bearer {token}"}, timeout=_TIMEOUT_S) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            return await question(client)

    return asyncio.run(asyncio.wait_for(asked(), _TIMEOUT_S))


async def tool_names(client: Client) -> set[str]:
    """The tools that there are."""
    return {tool.name for tool in (await client.list_tools()).tools}


async def tool_text(client: Client, name: str, **arguments: object) -> str:
    """The text of a tool's answer; it must not be an error."""
    result = await client.call_tool(name, arguments)
    text = "".join(getattr(part, "text", "") for part in result.content)
    assert not result.is_error, text
    return text
