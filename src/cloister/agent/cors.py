"""Cross-origin access for browsers: every origin may call the agent, which wants its token from all of them. No cookie means anything here.

Source: fetch.spec.whatwg.org, "CORS protocol".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

__all__ = ["add_headers", "answer_preflights"]

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_EXPOSED = "Accept-Ranges, Cache-Control, Content-Disposition, Content-Encoding, Content-Range, ETag, Last-Modified, Location"
_MAX_AGE_S = 7200

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def answer_preflights(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a browser's question whether it may; to be the outermost middleware, since the question carries no token."""
    if request.method != "OPTIONS" or "Origin" not in request.headers or "Access-Control-Request-Method" not in request.headers:
        return await handler(request)
    headers = {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", "*"),
        "Access-Control-Max-Age": str(_MAX_AGE_S),
    }
    return web.Response(status=204, headers=headers)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Let the page that asked read the answer; for ``app.on_response_prepare``."""
    if "Origin" in request.headers:
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
