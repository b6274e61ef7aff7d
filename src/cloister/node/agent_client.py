"""The supervisor's word to an agent: who the sandbox, made ahead, belongs to now. The answer is a sandbox's and so not trusted."""

from __future__ import annotations

import http.client
import json
import socket

from cloister.errors import AgentUnreachableError
from cloister.runtime.spec import AGENT_PORT

__all__ = ["hand_over"]

_TIMEOUT_S = 10.0


def hand_over(sock: socket.socket, envs: dict[str, str], access_token: str | None) -> None:
    """Tell the agent the client's variables and token; from then on it demands the token. ``sock`` is unconnected and is closed.

    Raises: AgentUnreachableError.
    """
    body = json.dumps({"envVars": envs, "accessToken": access_token})
    connection = http.client.HTTPConnection("127.0.0.1", AGENT_PORT, timeout=_TIMEOUT_S)
    with sock:
        try:
            sock.settimeout(_TIMEOUT_S)
            # An IPv6 socket reaches the agent's IPv4 address in its mapped form (RFC 4291, 2.5.5.2).
            sock.connect(("::ffff:127.0.0.1" if sock.family == socket.AF_INET6 else "127.0.0.1", AGENT_PORT))
            connection.sock = sock
            connection.request("POST", "/init", body, {"Content-Type": "application/json", "Connection": "close"})
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            raise AgentUnreachableError(f"the agent of a sandbox made ahead does not answer: {error}") from error
    if status != http.client.NO_CONTENT:
        raise AgentUnreachableError(f"the agent of a sandbox made ahead refused its new owner: {status}")
