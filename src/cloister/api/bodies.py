"""Reads the bodies of API requests, each within a time limit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import StreamReader, web

from cloister.api.handlers import Api
from cloister.errors import InvalidRequestError

__all__ = ["read_json", "steady_chunks"]


async def read_json(api: Api, request: web.Request, *, default: Any = None) -> Any:
    """The request's JSON body; ``default`` if the body is empty and a default is given.

    Raises:
        InvalidRequestError: it is not JSON.
        web.HTTPRequestTimeout: it did not arrive in time.
        web.HTTPRequestEntityTooLarge: it is larger than the application's bound.
    """
    try:
        async with asyncio.timeout(api.deadlines.body_s):
            raw = await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"the body did not come within {api.deadlines.body_s:g} s") from error
    if not raw and default is not None:
        return default
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error


async def steady_chunks(content: StreamReader, size: int, stall_s: float) -> AsyncIterator[bytes]:
    """The body in chunks of at most ``size`` bytes. Raises: web.HTTPRequestTimeout: no bytes for ``stall_s`` seconds."""
    chunks = content.iter_chunked(size)
    while True:
        try:
            async with asyncio.timeout(stall_s):
                chunk = await anext(chunks, None)
        except TimeoutError as error:
            raise web.HTTPRequestTimeout(text=f"nothing of the body came for {stall_s:g} s") from error
        if chunk is None:
            return
        yield chunk
