"""The access log: one entry ``request.answered`` for each request to the API or to a sandbox, when its answer is complete.

It has no query, because those of signed URLs and uploads open what they name, and no header but ``User-Agent``,
``Host`` and the sandbox's id. Texts of clients are cut. ``bytes`` are those of the answer, its head included.
"""

from __future__ import annotations

import structlog
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from cloister.api.peers import Peers

__all__ = ["access_log_class"]

_log = structlog.get_logger("cloister.access")
_MAX_TEXT = 512


def access_log_class(peers: Peers) -> type[AbstractAccessLogger]:
    """A class for aiohttp's runner, which makes an object for each connection; ``peers`` finds the clients behind trusted proxies."""

    class AccessLog(AbstractAccessLogger):
        """Writes the entries."""

        def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
            """Write one; ``time`` is in seconds."""
            _log.info(
                "request.answered",
                client=peers.address(request),
                method=request.method,
                host=request.headers.get("Host", "")[:_MAX_TEXT],
                sandbox_id=request.headers.get("E2b-Sandbox-Id", "")[:_MAX_TEXT],
                path=request.rel_url.raw_path[:_MAX_TEXT],
                status=response.status,
                bytes=response.body_length,
                seconds=round(time, 4),
                user_agent=request.headers.get("User-Agent", "")[:_MAX_TEXT],
            )

    return AccessLog
