"""The official Python SDK and the official MCP client with E2B_DOMAIN only: the SDK's own address of the gateway, by TLS."""

import asyncio
import json
import ssl

import httpx2
from e2b import Sandbox
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

sandbox = Sandbox.create(mcp={"time": {}}, timeout=60)


async def ask() -> dict[str, object]:
    """The tools."""
    headers = {"Authorization": f"Bearer {sandbox.get_mcp_token()}"}
    async with (
        httpx2.AsyncClient(headers=headers, verify=ssl.create_default_context()) as http,
        Client(streamable_http_client(sandbox.get_mcp_url(), http_client=http)) as client,
    ):
        return {"url": sandbox.get_mcp_url(), "tools": [tool.name for tool in (await client.list_tools()).tools]}


try:
    print(json.dumps(asyncio.run(ask())))
finally:
    sandbox.kill()
