"""A lean client of the E2B API on aiohttp. It sends only the bytes that the SDK sends, which separates the SDK's cost from the server's.

The client checks the answers of ``1+1`` and ``true``, and raises for any other.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

TEMPLATE = "code-interpreter-v1"
_CODE_PORT, _ENVD_PORT = 49999, 49983
_START = json.dumps({"process": {"cmd": "/bin/bash", "args": ["-l", "-c", "true"]}, "stdin": False}).encode()
_ENVELOPE = struct.pack(">BI", 0, len(_START)) + _START


class RefusedError(Exception):
    """The server answered with an error, or with a wrong answer."""


@dataclass(frozen=True)
class Made:
    """A sandbox of ours."""

    sandbox_id: str
    token: str

    def headers(self, port: int) -> dict[str, str]:
        """Headers that address a port of the sandbox."""
        return {"E2b-Sandbox-Id": self.sandbox_id, "E2b-Sandbox-Port": str(port), "X-Access-Token": self.token}


class RawClient:
    """One session with a connection for each simultaneous request."""

    def __init__(self, url: str, api_key: str, timeout_s: float = 60) -> None:
        self._url = url
        self._key = {"X-API-KEY": api_key}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(self._url, connector=aiohttp.TCPConnector(limit=0), timeout=self._timeout)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._session.close()

    async def _call(self, method: str, path: str, headers: dict[str, str], **more: Any) -> bytes:
        async with self._session.request(method, path, headers=headers, **more) as response:
            body = await response.read()
            if response.status >= 400:
                raise RefusedError(f"{response.status} {body[:300].decode(errors='replace')}")
            return body

    async def create(self, timeout_s: int = 3600, **more: Any) -> Made:
        """A new sandbox."""
        document = {"templateID": TEMPLATE, "timeout": timeout_s, **more}
        answer = json.loads(await self._call("POST", "/v2/sandboxes", self._key, json=document))
        return Made(answer["sandboxID"], answer["envdAccessToken"])

    async def run(self, made: Made, code: str = "1+1", expected: bytes = b'"2"') -> None:
        """Run code in the default Python kernel."""
        body = await self._call("POST", "/execute", made.headers(_CODE_PORT), json={"code": code})
        if expected not in body:
            raise RefusedError(f"{code} was answered by {body[:300]!r}")

    async def run_in_context(self, made: Made) -> None:
        """Create a context and run code in it."""
        answer = await self._call("POST", "/contexts", made.headers(_CODE_PORT), json={})
        body = await self._call("POST", "/execute", made.headers(_CODE_PORT), json={"code": "1+1", "context_id": json.loads(answer)["id"]})
        if b'"2"' not in body:
            raise RefusedError(f"a context answered {body[:300]!r}")

    async def command(self, made: Made) -> None:
        """``true`` in a login shell, until its end is reported, like ``commands.run``."""
        headers = {**made.headers(_ENVD_PORT), "Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}
        body = await self._call("POST", "/process.Process/Start", headers, data=_ENVELOPE)
        if b'"exited":true' not in body.replace(b" ", b""):
            raise RefusedError(f"true was answered by {body[:300]!r}")

    async def kill(self, made: Made) -> None:
        """End it."""
        await self._call("DELETE", f"/sandboxes/{made.sandbox_id}", self._key)

    async def live(self) -> list[str]:
        """The ids of all live sandboxes of the team."""
        return [row["sandboxID"] for row in json.loads(await self._call("GET", "/sandboxes", self._key))]
