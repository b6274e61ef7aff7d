"""Asks agents whether they answer, over the sandbox's own network, as a client would. Asynchronous.

Bounds the time; reads no byte of the answer's body. The connections are the ingress's, which closes them.
"""

from __future__ import annotations

import aiohttp
from yarl import URL

from cloister.errors import CloisterError
from cloister.protocol.agent import AGENT_PORT

__all__ = ["AgentHealth"]

_TIMEOUT_S = 3.0
_TOTAL_S = 20.0


class AgentHealth:
    """See :class:`cloister.control.pausing.AgentHealth`. Make it on the event loop that uses it."""

    def __init__(self, connector: aiohttp.BaseConnector, *, timeout_s: float = _TIMEOUT_S) -> None:
        """``connector`` takes a sandbox id for a host name."""
        self._session = aiohttp.ClientSession(
            connector=connector,
            connector_owner=False,
            timeout=aiohttp.ClientTimeout(total=_TOTAL_S, sock_read=timeout_s),  # a dial waits for a node that is restarting
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close the session, not the connections."""
        await self._session.close()

    async def answers(self, sandbox_id: str) -> bool:
        """Whether the agent of a running sandbox answers ``GET /health`` in time and with success.

        True also if the node does not reach the sandbox, such as one that it has just paused: the agent is not at fault.
        """
        url = URL.build(scheme="http", host=sandbox_id, port=AGENT_PORT, path="/health")
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                return response.status < 300
        except CloisterError:
            return True
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False
