"""The supervisor's word to an agent: who the sandbox, made ahead, belongs to now. The answer is a sandbox's and so not trusted."""

from __future__ import annotations

import http.client
import json
import socket

from cloister.errors import AgentUnreachableError
from cloister.runtime.agentcall import post

__all__ = ["hand_over"]

_TIMEOUT_S = 10.0


def hand_over(sock: socket.socket, envs: dict[str, str], access_token: str | None) -> None:
    """Tell the agent the client's variables and token; from then on it demands the token. ``sock`` is unconnected and is closed.

    Raises: AgentUnreachableError.
    """
    body = json.dumps({"envVars": envs, "accessToken": access_token})
    with post(sock, "/init", body, {"Content-Type": "application/json"}, _TIMEOUT_S) as response:
        status = response.status
    if status != http.client.NO_CONTENT:
        raise AgentUnreachableError(f"the agent of a sandbox made ahead refused its new owner: {status}")
