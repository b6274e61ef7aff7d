"""Announces to the agent of a sandbox that it is about to stand still (protocol/pausing.py).

At a pause its streams to clients end, so that no output is lost between it and their connections.
"""

from __future__ import annotations

import http.client

from cloister.agentclient.post import post
from cloister.errors import AgentUnreachableError
from cloister.protocol.dialled import Dialled
from cloister.protocol.pausing import Standstill

__all__ = ["announce_pause"]

_TIMEOUT_S = 0.5
"""A standstill does not wait longer for an agent. One that is silent is paused all the same."""
_END_TIMEOUT_S = 3.0
"""The same where the processes end, which takes longer anyway: a client could never ask again for output that it missed."""


def announce_pause(dialled: Dialled, access_token: str | None, kind: Standstill = Standstill.MEMORY) -> None:
    """Announce what is about to happen. This closes the socket.

    Raises: AgentUnreachableError, also if the agent is of an older release and refuses.
    """
    headers = {} if access_token is None else {"X-Access-Token": access_token}
    timeout_s = _END_TIMEOUT_S if kind is Standstill.FILES else _TIMEOUT_S
    with post(dialled, "/pausing", kind.to_json(), headers, timeout_s, whole_s=timeout_s) as response:
        status = response.status
    if status != http.client.NO_CONTENT:
        raise AgentUnreachableError(f"the agent does not know of pauses: {status}")
