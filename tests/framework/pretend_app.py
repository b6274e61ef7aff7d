"""The web application of the pretend internet's hosts, an ASGI one: by HTTP/1.1, HTTP/2, HTTP/3 and WebSocket it does the same.

::

    /headers            the request as it came, as JSON: method, target, host, version, headers, the address that was asked
    /echo               the body as it comes, while it comes
    /count              the body's length and SHA-256, as JSON
    /bytes?n=           n bytes
    /stream?n=&size=    n pieces of that size, each when ``next`` allows it (order ``allow``) or at once (``wait=0``)
    /redirect?to=       302 to that URL
    /reflect?text=      the text, as an error page would tell it
    /dns-query          DNS over HTTPS (RFC 8484)
    a WebSocket         its headers as JSON, then each message back
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

__all__ = ["App"]

_Scope = dict[str, Any]
_Receive = Callable[[], Awaitable[dict[str, Any]]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]
_REMEMBERED = 10_000


class App:
    """The application. ``answer_dns`` answers a packed DNS question."""

    def __init__(self, answer_dns: Callable[[bytes], bytes]) -> None:
        self._answer_dns = answer_dns
        self._requests: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED)
        self._pieces = asyncio.Semaphore(0)

    def requests(self) -> list[dict[str, Any]]:
        """The last requests, oldest first, as ``/headers`` shows them."""
        return list(self._requests)

    def allow(self, pieces: int) -> None:
        """Let ``/stream`` send that many pieces more."""
        for _ in range(pieces):
            self._pieces.release()

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Serve a connection's request."""
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        request = _describe(scope)
        self._requests.append(request)
        if scope["type"] == "websocket":
            await _echo_messages(request, receive, send)
            return
        answers = {"/echo": _echo, "/count": _count, "/dns-query": self._dns, "/stream": self._stream}
        await answers.get(scope["path"], _plain)(scope, request, receive, send)

    async def _stream(self, scope: _Scope, request: dict[str, Any], receive: _Receive, send: _Send) -> None:
        query = request["query"]
        await _start(send, 200, "application/octet-stream")
        for _ in range(int(query.get("n", 1))):
            if query.get("wait", "1") != "0":
                await self._pieces.acquire()
            await send({"type": "http.response.body", "body": b"x" * int(query.get("size", 1)), "more_body": True})
        await send({"type": "http.response.body"})

    async def _dns(self, scope: _Scope, request: dict[str, Any], receive: _Receive, send: _Send) -> None:
        packed = request["query"].get("dns", "")
        question = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)) if packed else await _whole(receive)
        await _reply(send, self._answer_dns(question), kind="application/dns-message")


def _describe(scope: _Scope) -> dict[str, Any]:
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    return {
        "method": scope.get("method", "WEBSOCKET"),
        "path": scope["path"],
        "query": dict(parse_qsl(scope["query_string"].decode())),
        "host": next((value for name, value in headers if name.lower() in {"host", ":authority"}), None),
        "version": scope["http_version"],
        "scheme": scope["scheme"],
        "headers": headers,
        "server": list(scope["server"] or ()),
        "client": list(scope["client"] or ()),
    }


async def _plain(scope: _Scope, request: dict[str, Any], receive: _Receive, send: _Send) -> None:
    query = request["query"]
    if scope["path"] == "/headers":
        await _reply(send, json.dumps(request).encode(), kind="application/json")
    elif scope["path"] == "/bytes":
        await _reply(send, b"x" * int(query["n"]))
    elif scope["path"] == "/redirect":
        await _start(send, int(query.get("status", 302)), "text/plain", [(b"location", query["to"].encode())])
        await send({"type": "http.response.body"})
    elif scope["path"] == "/reflect":
        await _reply(send, query["text"].encode(), status=400)
    else:
        await _reply(send, f"{request['host']} at {request['server'][0]}\n".encode())


async def _start(send: _Send, status: int, kind: str, more: list[tuple[bytes, bytes]] | None = None) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind.encode()), *(more or [])]})


async def _reply(send: _Send, body: bytes, *, status: int = 200, kind: str = "text/plain") -> None:
    await _start(send, status, kind, [(b"content-length", str(len(body)).encode())])
    await send({"type": "http.response.body", "body": body})


async def _whole(receive: _Receive) -> bytes:
    body = b""
    while True:
        event = await receive()
        body += bytes(event.get("body", b""))
        if not event.get("more_body"):
            return body


async def _echo(scope: _Scope, request: dict[str, Any], receive: _Receive, send: _Send) -> None:
    await _start(send, 200, "application/octet-stream")
    more = True
    while more:
        event = await receive()
        more = bool(event.get("more_body"))
        await send({"type": "http.response.body", "body": event.get("body", b""), "more_body": more})


async def _count(scope: _Scope, request: dict[str, Any], receive: _Receive, send: _Send) -> None:
    length, digest, more = 0, hashlib.sha256(), True
    while more:
        event = await receive()
        length += len(event.get("body", b""))
        digest.update(event.get("body", b""))
        more = bool(event.get("more_body"))
    await _reply(send, json.dumps({"length": length, "sha256": digest.hexdigest()}).encode(), kind="application/json")


async def _echo_messages(request: dict[str, Any], receive: _Receive, send: _Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": json.dumps(request)})
    while (event := await receive())["type"] == "websocket.receive":
        data = {"bytes": event["bytes"]} if event.get("bytes") is not None else {"text": event["text"]}
        await send({"type": "websocket.send", **data})
