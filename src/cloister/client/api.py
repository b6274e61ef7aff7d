"""Calls of the REST API, with the key of one team. Translates every failure into one of our errors.

Answers of the server are JSON as the API publishes it. Answers that pass through a sandbox (``sandbox.py``) are not trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

import aiohttp

from cloister.client.sandbox import SandboxClient
from cloister.config.client_env import ClientEnv
from cloister.errors import (
    AuthenticationError,
    CloisterError,
    ConflictError,
    InternalError,
    InvalidRequestError,
    LimitError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from cloister.model.text import printable

__all__ = ["ApiClient", "NewSandbox", "connect", "fault_of"]

_CONNECT_S = 10.0
_ANSWER_S = 120.0
_END_S = 20.0
_STALL_S = 120.0
_CHUNK = 1 << 20
_IDS_AT_ONCE = 100
_MOST_SHOWN = 300
_STATUSES: dict[int, type[CloisterError]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    429: LimitError,
}


@dataclass(frozen=True, kw_only=True)
class NewSandbox:
    """A sandbox to create; ``timeout_s`` is its lifetime."""

    template: str
    timeout_s: int
    envs: Mapping[str, str]


class ApiClient:
    """The API of one server. Use :func:`connect`, which closes its connections."""

    def __init__(self, server: ClientEnv, session: aiohttp.ClientSession) -> None:
        self.url = server.api_url
        self._session = session
        self._headers = {"X-API-KEY": server.api_key}

    async def list_sandboxes(self, *, states: Sequence[str] = (), metadata: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Every sandbox of the team that runs or is paused, the latest first (``ListedSandbox`` of the API)."""
        query = {"limit": str(_IDS_AT_ONCE)}
        if states:
            query["state"] = ",".join(states)
        if metadata:
            query["metadata"] = urlencode({quote(name): quote(value) for name, value in metadata.items()})
        found: list[dict[str, Any]] = []
        while True:
            answer, headers = await self._exchange("GET", "/v2/sandboxes", query=query)
            found += answer
            if "X-Next-Token" not in headers:
                return found
            query["nextToken"] = headers["X-Next-Token"]

    async def usage(self, sandbox_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The newest sample of each sandbox that has one (``SandboxMetric`` of the API), by id."""
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(sandbox_ids), _IDS_AT_ONCE):
            query = {"sandbox_ids": ",".join(sandbox_ids[start : start + _IDS_AT_ONCE])}
            answer, _ = await self._exchange("GET", "/sandboxes/metrics", query=query)
            found |= answer["sandboxes"]
        return found

    async def get(self, sandbox_id: str) -> dict[str, Any]:
        """One sandbox that has not ended (``SandboxDetail`` of the API). Raises: NotFoundError, which says why if it ended lately."""
        answer, _ = await self._exchange("GET", f"/sandboxes/{_segment(sandbox_id)}")
        return dict(answer)

    async def logs(self, sandbox_id: str, cursor_ms: int, level: str) -> list[dict[str, Any]]:
        """A page of the log from that time on, oldest first (``SandboxLogEntry`` of the API); empty at its end."""
        query = {"cursor": str(cursor_ms), "level": level}
        answer, _ = await self._exchange("GET", f"/v2/sandboxes/{_segment(sandbox_id)}/logs", query=query)
        return list(answer["logs"])

    async def connections(self, sandbox_id: str, since_ms: int, verdict: str | None) -> list[dict[str, Any]]:
        """The record of connections from that time on, oldest first. ``verdict``: ``allowed`` or ``refused`` only."""
        query = {"since": str(since_ms), "limit": "1000"} | ({} if verdict is None else {"verdict": verdict})
        found: list[dict[str, Any]] = []
        while True:
            answer, headers = await self._exchange("GET", f"/sandboxes/{_segment(sandbox_id)}/connections", query=query)
            found += answer
            if "X-Next-Token" not in headers:
                return found
            query["nextToken"] = headers["X-Next-Token"]

    async def is_there(self, sandbox_id: str) -> bool:
        """Whether the sandbox has not ended."""
        try:
            await self.get(sandbox_id)
        except NotFoundError:
            return False
        return True

    async def kill(self, sandbox_id: str) -> None:
        """End a sandbox. Raises: NotFoundError."""
        await self._exchange("DELETE", f"/sandboxes/{_segment(sandbox_id)}", timeout_s=_END_S)

    async def delete_template(self, name: str) -> None:
        """Delete a template of the team. Raises: NotFoundError, PermissionDeniedError: it is the server's own."""
        await self._exchange("DELETE", f"/templates/{quote(name, safe='')}")

    async def resume(self, sandbox_id: str, timeout_s: int) -> None:
        """Let a paused sandbox run for that time at least; one that runs keeps its own."""
        await self._exchange("POST", f"/sandboxes/{_segment(sandbox_id)}/connect", body={"timeout": timeout_s})

    async def explain(self, sandbox_id: str, error: UnavailableError) -> CloisterError:
        """The reason why the sandbox has ended, in the server's words; ``error`` if it has not."""
        try:
            await self.get(sandbox_id)
        except NotFoundError as found:
            return found
        return error

    async def use(self, sandbox_id: str) -> SandboxClient:
        """A client of the sandbox's agent. Raises: NotFoundError, ConflictError: it is paused, and traffic does not wake it."""
        detail = await self.get(sandbox_id)
        if detail["state"] == "paused" and not detail["lifecycle"]["autoResume"]:
            raise ConflictError(f"sandbox {sandbox_id} is paused", hint="give --resume to let it run again")
        return SandboxClient(self._session, self.url, sandbox_id, detail.get("envdAccessToken"))

    @contextlib.asynccontextmanager
    async def sandbox(self, new: NewSandbox) -> AsyncIterator[SandboxClient]:
        """A new sandbox for the block. It is ended afterwards, also when the task is cancelled while it is being created."""
        body = {"templateID": new.template, "timeout": new.timeout_s, "envVars": dict(new.envs)}
        creating = asyncio.ensure_future(self._exchange("POST", "/v2/sandboxes", body=body))
        try:
            made, _ = await asyncio.shield(creating)
            yield SandboxClient(self._session, self.url, made["sandboxID"], made["envdAccessToken"])
        finally:
            with contextlib.suppress(CloisterError, aiohttp.ClientError):  # not created, or ended before: that is what is wanted
                made, _ = await creating
                await self.kill(made["sandboxID"])

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = _ANSWER_S) -> Any:
        """The answer to one request as the team; None if it is empty."""
        answer, _ = await self._exchange(method, path, body=body, timeout_s=timeout_s)
        return answer

    async def receive(self, path: str, token: str, file: BinaryIO) -> int:
        """Write the answer to a request with a token of its own to ``file``; gives its bytes."""
        size = 0
        async with self._streamed("GET", path, token) as response:
            async for chunk in response.content.iter_chunked(_CHUNK):
                await asyncio.to_thread(file.write, chunk)
                size += len(chunk)
        return size

    async def send(self, path: str, token: str, file: BinaryIO) -> Any:
        """Send ``file`` with a token of its own; gives the answer."""
        async with self._streamed("PUT", path, token, file) as response:
            return await response.json()

    @contextlib.asynccontextmanager
    async def _streamed(self, method: str, path: str, token: str, data: BinaryIO | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=None if data else _STALL_S)
        headers = {"Authorization": f"Bearer {token}"}
        async with self._session.request(
            method, self.url + path, data=data, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            if response.status >= 300:
                raise fault_of(response.status, await response.text())
            yield response

    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout_s: float = _ANSWER_S,
    ) -> tuple[Any, Mapping[str, str]]:
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_S)
        async with self._session.request(
            method, self.url + path, params=query, json=body, headers=self._headers, timeout=timeout, allow_redirects=False
        ) as response:
            text = await response.text()
            if 300 <= response.status < 400:  # followed, the key would go to whatever address the answer names
                where = printable(response.headers.get("Location", "another address")[:_MOST_SHOWN])
                raise UnavailableError(f"{self.url} redirects to {where}", hint="set E2B_API_URL to the server's own address")
            if response.status >= 400:
                raise fault_of(response.status, text)
            try:
                return json.loads(text) if text else None, response.headers
            except ValueError as error:
                raise InternalError(f"{self.url} does not answer as the API does", hint="is E2B_API_URL right?") from error


@contextlib.asynccontextmanager
async def connect(server: ClientEnv) -> AsyncIterator[ApiClient]:
    """The API of ``server`` for the block. Raises: UnavailableError: it cannot be reached, or a connection to it broke."""
    try:
        async with aiohttp.ClientSession(read_bufsize=1 << 20) as session:
            yield ApiClient(server, session)
    except (aiohttp.ClientError, TimeoutError) as error:
        number = error.errno if isinstance(error, aiohttp.ClientConnectorError) else None
        cause = os.strerror(number) if number else str(error) or "no answer in time"
        raise UnavailableError(f"the server at {server.api_url} does not answer: {cause}", hint="is `cloister serve` running?") from error


def fault_of(status: int, text: str) -> CloisterError:
    """The error in an answer with that HTTP status."""
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = text.strip()[:500] or f"no reason given (HTTP status {status})"
    return _STATUSES.get(status, InvalidRequestError if status < 500 else UnavailableError)(printable(message))


def _segment(sandbox_id: str) -> str:
    return quote(sandbox_id, safe="")
