"""Asks the agent in a sandbox for its events, over the sandbox's own network, as any client of it would.

Uses the ingress's connections, whose owner closes them; owns the bounds in time and bytes, and nothing else: what comes back is not
trusted, nor understood here. Invariant: when a sandbox ends, what is under way to it ends.
"""

from __future__ import annotations

import json

import aiohttp
from yarl import URL

from cloister.errors import CloisterError, UnavailableError
from cloister.proxy.upstream import SandboxConnector, SandboxEndedError, Users

__all__ = ["AgentReports"]

_TIMEOUT = aiohttp.ClientTimeout(total=3.0)
_MAX_BYTES = 256 << 10


class AgentReports:
    """See :class:`cloister.control.logs.AgentReports`. Make it on the event loop that uses it."""

    def __init__(self, connector: SandboxConnector) -> None:
        self._users = Users()
        self._session = aiohttp.ClientSession(
            connector=connector, connector_owner=False, timeout=_TIMEOUT, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        )

    async def close(self) -> None:
        """Let go of the connections."""
        await self._session.close()

    def end(self, sandbox_id: str) -> None:
        """Let go of a sandbox that ended."""
        self._users.end(sandbox_id)

    async def fetch(self, sandbox_id: str, port: int, access_token: str | None, agent_id: str, since: int) -> object:
        """The agent's answer, at the one of its ports. Raises: UnavailableError, whatever is wrong."""
        url = URL.build(scheme="http", host=sandbox_id, port=port, path="/logs", query={"agent_id": agent_id, "since": str(since)})
        headers = {} if access_token is None else {"X-Access-Token": access_token}
        try:
            with self._users.use(sandbox_id):
                async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                    return json.loads(await _read(response))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError, SandboxEndedError, CloisterError) as error:
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
