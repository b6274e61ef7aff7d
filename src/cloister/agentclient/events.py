"""Asks agents for the events of their sandboxes, over the sandbox's own network, as a client would. Asynchronous.

Bounds the time and the bytes of an answer; reports.py checks its content. The connections are the ingress's, which closes them.
Invariant: a request ends when its sandbox ends.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import Protocol

import aiohttp
from yarl import URL

from cloister.errors import CloisterError, UnavailableError

__all__ = ["AgentReports", "RequestsUnderWay"]

_TIMEOUT = aiohttp.ClientTimeout(total=3.0)
_MAX_BYTES = 256 << 10


class RequestsUnderWay(Protocol):
    """The requests under way, by sandbox (proxy/upstream.py)."""

    def track(self, sandbox_id: str) -> AbstractContextManager[object]:
        """A context that ends with a CloisterError when the sandbox ends."""

    def abort(self, sandbox_id: str) -> None:
        """Abort the requests to a sandbox that ended."""


class AgentReports:
    """See :class:`cloister.control.logs.AgentReports`. Make it on the event loop that uses it."""

    def __init__(self, connector: aiohttp.BaseConnector, requests: RequestsUnderWay) -> None:
        """``connector`` takes a sandbox id for a host name. ``requests`` is for this object alone."""
        self._requests = requests
        self._session = aiohttp.ClientSession(
            connector=connector, connector_owner=False, timeout=_TIMEOUT, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        )

    async def close(self) -> None:
        """Close the session, not the connections."""
        await self._session.close()

    def end(self, sandbox_id: str) -> None:
        """Abort the requests to a sandbox that ended."""
        self._requests.abort(sandbox_id)

    async def fetch(self, sandbox_id: str, port: int, access_token: str | None, agent_id: str, since: int) -> object:
        """The agent's answer on one of its two ports, not checked. Raises: UnavailableError, whatever is wrong."""
        url = URL.build(scheme="http", host=sandbox_id, port=port, path="/logs", query={"agent_id": agent_id, "since": str(since)})
        headers = {} if access_token is None else {"X-Access-Token": access_token}
        try:
            with self._requests.track(sandbox_id):
                async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                    return json.loads(await _read(response))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError, CloisterError) as error:
            raise UnavailableError(f"the agent of {sandbox_id} did not report: {type(error).__name__}") from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    if response.status != 200:
        raise ValueError(f"status {response.status}")
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > _MAX_BYTES:
            raise ValueError("the answer is too long")
    return bytes(body)
