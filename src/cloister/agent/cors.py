"""Cross-origin access for browsers: pages of any origin may call the agent, which demands the token from all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from cloister.protocol.cors import ANY_ORIGIN, is_preflight, preflight_headers

__all__ = ["add_headers", "answer_preflights"]

_EXPOSED = "Accept-Ranges, Cache-Control, Content-Disposition, Content-Encoding, Content-Range, ETag, Last-Modified, Location"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def answer_preflights(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer preflight requests. This must be the outermost middleware, since a preflight carries no token."""
    if not is_preflight(request.method, request.headers):
        return await handler(request)
    return web.Response(status=204, headers=preflight_headers(request.headers))


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Let the calling page read the answer; for ``app.on_response_prepare``."""
    if "Origin" in request.headers:
        response.headers.update(ANY_ORIGIN)
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
