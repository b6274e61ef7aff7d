"""A hostile registry on this host, and a port that no sandbox may reach."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Canary", "HostileRegistry", "canary", "hostile_registry"]

_KIND = "application/vnd.oci.image.manifest.v1+json"
_STALL_S = 25.0


class Canary:
    """Listens at every address of the host, and counts who comes."""

    def __init__(self, server: socket.socket) -> None:
        self.port: int = server.getsockname()[1]
        self.callers: list[str] = []
        self._server = server
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, address = self._server.accept()
            except OSError:
                return
            self.callers.append(str(address))
            sock.close()


@contextmanager
def canary() -> Iterator[Canary]:
    """For the time of a ``with``."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield Canary(server)
        server.shutdown(socket.SHUT_RDWR)


class HostileRegistry(ThreadingHTTPServer):
    """``redirect`` is where requests of the kind ``redirected`` are sent; with ``stalled`` set, manifests wait for ``go``."""

    daemon_threads = True
    redirected = ""
    redirect = ""
    stalled = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port: int = self.server_address[1]
        self.heard: list[str] = []
        self.is_asked = threading.Event()
        self.go = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: HostileRegistry
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answers skopeo."""
        self.server.heard.append(self.path)
        kind = next((kind for kind in ("manifests", "blobs") if f"/{kind}/" in self.path), "ping")
        if kind == "manifests" and self.server.stalled:
            self.server.is_asked.set()
            self.server.go.wait(_STALL_S)
        if self.server.redirected == "token":
            self._say(401, {"WWW-Authenticate": f'Bearer realm="{self.server.redirect}/token",service="x"'})
        elif self.server.redirected == kind:
            self._say(307, {"Location": self.server.redirect + self.path})
        elif kind == "manifests":
            named = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:" + "0" * 64, "size": 2}
            self._say(200, {"Content-Type": _KIND}, {"schemaVersion": 2, "mediaType": _KIND, "config": named, "layers": []})
        else:
            self._say(200 if kind == "ping" else 404, {})

    def _say(self, status: int, headers: dict[str, str], document: dict[str, Any] | None = None) -> None:
        body = json.dumps(document or {}).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Quiet."""


@contextmanager
def hostile_registry() -> Iterator[HostileRegistry]:
    """For the time of a ``with``."""
    with HostileRegistry() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.go.set()
        server.shutdown()
