"""The agent's HTTP servers: their bounds, and requests to which aiohttp itself would answer with an internal error.

aiohttp reads ``Expect`` before any route or middleware and quotes an unknown value in its answer. This fails for bytes that are no UTF-8.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.web_server import Server

__all__ = ["AgentRunner", "start_app"]

_MAX_HEAD_BYTES, _MAX_HEADERS = 64 << 10, 256  # the same bounds as the ingress's
_READ_BUFFER_BYTES = 256 << 10

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class AgentRunner(web.AppRunner):
    """An ``AppRunner`` whose connections refuse an ``Expect`` header that cannot be quoted."""

    async def _make_server(self) -> Server:
        server = await super()._make_server()
        server.request_handler = _checked(server.request_handler)
        return server


async def start_app(app: web.Application, listener: socket.socket) -> web.AppRunner:
    """Serve an application; ``cleanup`` of the runner ends it."""
    runner = AgentRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=3600,
        auto_decompress=False,  # handlers that take a compressed body check that it is complete
        max_line_size=_MAX_HEAD_BYTES,
        max_field_size=_MAX_HEAD_BYTES,
        max_headers=_MAX_HEADERS,
        read_bufsize=_READ_BUFFER_BYTES,
    )
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return runner


def _checked(handler: _Handler) -> _Handler:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if not request.headers.get("Expect", "").isascii():
            return web.Response(status=417, text="The header Expect has characters that no expectation has")
        return await handler(request)

    return handle
