"""The agent's HTTP servers below their applications: what aiohttp itself would answer with an internal error.

The library looks at ``Expect`` before any route or middleware does, and quotes an unknown one in its answer, which fails when the value
has bytes that are no UTF-8.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.web_server import Server

__all__ = ["AgentRunner"]

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class AgentRunner(web.AppRunner):
    """An ``AppRunner`` whose connections refuse expectations that cannot be quoted."""

    async def _make_server(self) -> Server:
        server = await super()._make_server()
        server.request_handler = _checked(server.request_handler)
        return server


def _checked(handler: _Handler) -> _Handler:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if not request.headers.get("Expect", "").isascii():
            return web.Response(status=417, text="The header Expect has characters that no expectation has")
        return await handler(request)

    return handle
