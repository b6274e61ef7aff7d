"""Streamable HTTP: access control and the limit of sessions.

A request needs the key, also on loopback, which other users and programs of the machine reach too. An unknown Host header is refused,
because a web page can point its own name at this machine. So is every Origin that is not allowed. Only revisions of the protocol with a
handshake are served: a sandbox belongs to a session, and later revisions have none.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import UNSUPPORTED_PROTOCOL_VERSION
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from cloister_mcp.options import HttpOptions

__all__ = ["read_key", "serve"]

_MAX_BODY = 16 * 1024 * 1024
_MAX_CONNECTIONS = 512
_STOP_S = 5


class Guard:
    """Lets requests through that have the key and ask for a revision with sessions."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._wanted = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the start and end of the application."""
        app = self._app if scope["type"] == "lifespan" else self._choose(scope)
        await app(scope, receive, send)

    def _choose(self, scope: Scope) -> ASGIApp:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._wanted):
            message = "this address needs the header Authorization: Bearer <key>"
            return JSONResponse({"error": "unauthorized", "message": message}, 401, {"WWW-Authenticate": "Bearer"})
        version = headers.get(b"mcp-protocol-version", b"").decode("latin-1")
        if version and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            data: dict[str, Any] = {"supported": list(HANDSHAKE_PROTOCOL_VERSIONS), "requested": version[:64]}
            error = {"code": UNSUPPORTED_PROTOCOL_VERSION, "message": "a sandbox belongs to a session: begin with initialize", "data": data}
            return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 400)
        return self._app


def read_key(path: Path) -> str:
    """The key in the file. Creates the file, with mode 0600, if it does not exist.

    Raises:
        ValueError: others may read the file, another user owns it, or it has no key of 16 characters or more.
        OSError: the file cannot be read or created.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secrets.token_urlsafe(32)}\n")
    with path.open() as file:
        status = os.fstat(file.fileno())
        if status.st_uid not in (os.geteuid(), 0):
            raise ValueError(f"{path} is another user's, who knows the key that it holds: choose a file of your own")
        if status.st_mode & 0o077:
            raise ValueError(f"{path} can be read by other users: chmod 600 {path}")
        key = file.read(4096).strip()
    if len(key) < 16 or not key.isascii() or not key.isprintable():
        raise ValueError(f"{path} holds no key: it needs 16 characters or more on one line")
    return key


def serve(server: MCPServer[Any], options: HttpOptions) -> int:
    """Serve until a signal; the exit code."""
    key = read_key(options.key_file)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.create_server((options.host, options.port), family=family, backlog=128)
    port = listener.getsockname()[1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    own = [f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]", host)]
    app = server.streamable_http_app(
        max_request_body_size=_MAX_BODY,
        session_idle_timeout=options.idle_s,
        max_sessions=options.max_sessions,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=True, allowed_hosts=[*own, *options.hosts], allowed_origins=list(options.origins)
        ),
        host=options.host,
    )
    config = uvicorn.Config(
        Guard(app, key),
        log_level="warning",
        access_log=False,
        lifespan="on",
        ws="none",
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_STOP_S,
    )
    print(f"cloister-mcp: ready on http://{host}:{port}/mcp; the key is in {options.key_file}", file=sys.stderr, flush=True)
    uvicorn.Server(config).run(sockets=[listener])
    return 0
