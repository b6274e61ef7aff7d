"""Start MCP servers in a sandbox and use their tools."""

import asyncio
import json
import os
import urllib.error
import urllib.request

import httpx2
from e2b import Sandbox
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client


async def main(url, headers):
    async with httpx2.AsyncClient(headers=headers) as http, Client(streamable_http_client(url, http_client=http)) as client:
        tools = (await client.list_tools()).tools
        print("tools:", ", ".join(sorted(tool.name for tool in tools)))

        when = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Europe/Paris"}
        answer = await client.call_tool("convert_time", when)
        print("12:00 in Paris is", json.loads(answer.content[0].text)["target"]["datetime"][11:16])


with Sandbox.create(mcp={"time": {}, "memory": {}}) as sandbox:
    # With a domain of your own, get_mcp_url() is all. Without, the server's address and two headers say what is meant.
    url = os.environ["E2B_SANDBOX_URL"] + "/mcp"
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "50005"}
    asyncio.run(main(url, {**headers, "Authorization": f"Bearer {sandbox.get_mcp_token()}"}))

    try:
        urllib.request.urlopen(urllib.request.Request(url, headers=headers))
    except urllib.error.HTTPError as error:
        print("without the token:", error.code)
