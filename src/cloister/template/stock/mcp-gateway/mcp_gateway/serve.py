"""The gateway's own process: starts the servers, then listens; what it has to say until then goes to who started it.

Reads one JSON document from standard input: ``{"config", "token"}``. Standard output is a pipe to the command that waits: one line
``ready``, or what is wrong, and then it is closed. The log is standard error.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_gateway.backend import Backend
from mcp_gateway.catalog import GatewayError, Plan
from mcp_gateway.gateway import Gateway
from mcp_gateway.settings import LOG_DIR, PORT, installer, table

__all__ = ["main"]

_SESSION_IDLE_S = 24 * 3600.0
_UNAUTHORIZED = b'{"error": "unauthorized", "message": "this address needs the header Authorization: Bearer <token>"}'


class Guarded:
    """Answers 401 to requests without the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._wanted = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the start and end of the application."""
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] != "lifespan" and not hmac.compare_digest(given, self._wanted):
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _UNAUTHORIZED})
            return
        await self._app(scope, receive, send)


def listeners(port: int) -> list[socket.socket]:
    """Both loopback addresses, since ``localhost`` may mean either. Raises: GatewayError."""
    made = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.listen(128)
            made.append(sock)
        except OSError as error:
            if sock is not None:
                sock.close()
            if family == socket.AF_INET:
                raise GatewayError(f"port {port} of the sandbox cannot be used: {error.strerror}") from error
    return made


async def serve(plans: Sequence[Plan], token: str) -> None:
    """Until a signal. Raises: GatewayError."""
    sockets = listeners(PORT)
    prepare = installer()
    backends = [Backend(plan, None if plan.url else prepare.start(plan), LOG_DIR) for plan in plans]
    try:
        failures = [error for error in await asyncio.gather(*(b.open() for b in backends), return_exceptions=True) if _failed(error)]
        if failures:
            raise GatewayError("\n".join(map(str, failures)))
        gateway = Gateway(backends).server()
        settings = TransportSecuritySettings(enable_dns_rebinding_protection=False)  # clients come by many names, and all need the token
        app = Guarded(gateway.streamable_http_app(transport_security=settings, session_idle_timeout=_SESSION_IDLE_S), token)
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2, lifespan="on", ws="none")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=sockets))
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        tell("ready")
        await serving
    finally:
        await asyncio.gather(*(backend.close() for backend in backends), return_exceptions=True)


def _failed(result: object) -> bool:
    return isinstance(result, BaseException)


def tell(text: str) -> None:
    """The one message to the command that waits."""
    os.write(1, (text + "\n").encode())
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def main() -> int:
    """Run the gateway."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    document = json.load(sys.stdin)
    try:
        asyncio.run(serve(table().plans(document["config"]), document["token"]))
    except GatewayError as error:
        logging.getLogger("mcp-gateway").error("%s", error)  # noqa: TRY400 - the message is for users, the place in our code says nothing
        tell(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
