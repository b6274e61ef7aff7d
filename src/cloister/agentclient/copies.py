"""Tells the agent of a sandbox that it is a copy of another one: its id, token and variables, and that random numbers must differ."""

from __future__ import annotations

import http.client

from cloister.agentclient.post import post
from cloister.errors import AgentUnreachableError
from cloister.protocol.copied_sandbox import CopiedSandbox
from cloister.protocol.dialled import Dialled

__all__ = ["become_copy"]

_TIMEOUT_S = 10.0


def become_copy(dialled: Dialled, copy: CopiedSandbox, original_token: str | None) -> None:
    """Give the agent its new identity, and renew the random generators of agent and kernels. Call it before a client reaches the copy.

    This closes the socket. ``original_token`` is the token of the sandbox that was copied. Every
    copy needs this call: without it two copies draw the same random numbers, and answer to the original's token.

    Raises: AgentUnreachableError, also if the agent refuses.
    """
    headers = {"Content-Type": "application/json"}
    if original_token is not None:
        headers["X-Access-Token"] = original_token
    with post(dialled, "/resumed", copy.to_json(), headers, _TIMEOUT_S, whole_s=_TIMEOUT_S) as response:
        status = response.status
    if status != http.client.NO_CONTENT:
        raise AgentUnreachableError(f"the agent of a copied sandbox refused its new identity: {status}")
