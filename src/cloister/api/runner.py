"""The HTTP server below the application: answers what is no HTTP in the shape of every other error, and logs it as one line.

Everything that is a request reaches the application; this is for bytes that are none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_server import Server

from cloister.api.errors import error_response

__all__ = ["JsonErrorRunner"]

_Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_log = structlog.get_logger("cloister.api")


class JsonErrorRunner(web.AppRunner):
    """An ``AppRunner`` whose connections answer malformed requests with the published shape of errors."""

    async def _make_server(self) -> Server:
        server = await super()._make_server()
        server.__class__ = _Server  # the application makes its own class of server, and takes no other
        server.request_handler = _checked(server.request_handler)
        return server


def _checked(handler: _Handle) -> _Handle:
    """Before any route or middleware is asked, an unknown ``Expect`` is quoted in an answer, which bytes that are no UTF-8 make fail."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if not request.headers.get("Expect", "").isascii():
            return error_response(417, "the header Expect has characters that no expectation has")
        return await handler(request)

    return handle


class _Server(Server):
    def __call__(self) -> RequestHandler:
        return _Handler(self, loop=asyncio.get_running_loop(), **self._kwargs)


class _Handler(RequestHandler):
    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer and close the connection. Raises: ConnectionError when part of an answer has been sent."""
        if status >= 500:
            _log.error("request.failed", peer=request.remote, exc_info=exc)
        else:
            _log.info("request.malformed", peer=request.remote, error=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way; there is no place for another")
        text = "internal error" if status >= 500 else f"the request is not valid HTTP: {_first_line(message)}"
        response = error_response(status, text)
        response.force_close()
        return response


def _first_line(message: str | None) -> str:
    """What the parser found, without the bytes that it shows below."""
    return (message or "it cannot be parsed").strip().splitlines()[0].rstrip(":")[:200]
