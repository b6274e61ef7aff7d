"""Answers of a fake sandbox on the agent's ports."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

__all__ = ["execute", "health", "interpreter_health"]


async def execute(request: web.Request) -> web.StreamResponse:
    """Say what was asked as standard output; ``forever`` never ends, ``boom`` is an error."""
    body = await request.json()
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    code = body["code"]

    async def say(**event: Any) -> None:
        await response.write(json.dumps(event).encode() + b"\n")

    await say(type="number_of_executions", execution_count=1)
    while code == "forever":
        await say(type="stdout", text="tick\n", timestamp=0)
        await asyncio.sleep(0.05)
    if code == "boom":
        await say(type="error", name="Boom", value="it burst", traceback="Traceback: it burst")
    else:
        await say(type="stdout", text=code + "\n", timestamp=0)
        await say(type="result", text=code, is_main_result=True)
    await say(type="end_of_execution")
    return response


async def health(_request: web.Request) -> web.Response:
    """The agent is well."""
    return web.Response(status=204)


async def interpreter_health(_request: web.Request) -> web.Response:
    """The interpreter is well."""
    return web.Response(text="OK")
