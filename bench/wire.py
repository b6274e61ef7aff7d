"""One HTTP request on a new connection, whose client may disconnect at any moment, like real clients.

No HTTP library, because those close connections cleanly. The caller chooses FIN or RST.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_PATIENCE_S = 90.0


class WrongAnswerError(Exception):
    """A client that stayed got a wrong answer."""


@dataclass(frozen=True)
class Departure:
    """When the client disconnects: ``after_s`` after its last byte, or at the first bytes of the answer's body; by RST or FIN."""

    after_s: float
    on_output: bool = False
    reset: bool = False


@dataclass(frozen=True)
class Answer:
    """The answer. ``raw`` is the body as on the wire, with chunks."""

    status: int
    raw: bytes

    def json(self) -> Any:
        """The body of an answer that is not chunked."""
        return json.loads(self.raw)


class Wire:
    """Requests to one server."""

    def __init__(self, url: str, api_key: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._address = (parts.hostname, parts.port or 80)
        self._api_key = api_key

    async def control(self, method: str, path: str, body: Any = None, leave: Departure | None = None) -> Answer | None:
        """A request of the control plane."""
        return await self.request(method, path, {"X-API-KEY": self._api_key, "Content-Type": "application/json"}, body, leave)

    async def request(
        self, method: str, path: str, headers: dict[str, str], body: Any = None, leave: Departure | None = None
    ) -> Answer | None:
        """The whole answer, or None if the client left. Raises: OSError, TimeoutError, WrongAnswerError (no HTTP)."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"Host": "bench", "Connection": "close", "Content-Length": str(len(data)), **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_connection(*self._address)
            try:
                writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
                await writer.drain()
                if leave is not None:
                    await _stay(reader, leave)
                    return None
                return _parse(await reader.read())
            finally:
                await _end(writer, reset=leave is not None and leave.reset)


async def _stay(reader: asyncio.StreamReader, leave: Departure) -> None:
    if leave.on_output:
        await reader.readuntil(b"\r\n\r\n")
        await reader.read(4096)
    await asyncio.sleep(leave.after_s)


async def _end(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        writer.transport.abort()
    else:
        writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _parse(raw: bytes) -> Answer:
    head, found, body = raw.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if not found or len(words) < 2 or not words[1].isdigit():
        raise WrongAnswerError(f"no HTTP answer: {raw[:100]!r}")
    return Answer(int(words[1]), body)
