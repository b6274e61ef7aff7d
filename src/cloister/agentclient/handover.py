"""Tells the agent of a running sandbox what has changed: its client's variables and token, and the authority that programs shall trust."""

from __future__ import annotations

import http.client

from cloister.agentclient.post import post
from cloister.errors import AgentUnreachableError
from cloister.protocol.dialled import Dialled
from cloister.protocol.init_document import InitUpdate

__all__ = ["hand_over", "set_authority"]

_TIMEOUT_S = 10.0


def hand_over(dialled: Dialled, envs: dict[str, str], access_token: str | None, authority: str = "") -> None:
    """Give a sandbox that was made ahead to a client; from then on the agent demands the token. This closes the socket.

    ``authority`` is as in :func:`set_authority`. Raises: AgentUnreachableError, also if the agent refuses.
    """
    status = _post(dialled, InitUpdate(envs, access_token, authority or None), None)
    if status != http.client.NO_CONTENT:
        raise AgentUnreachableError(f"the agent of a sandbox made ahead refused its new owner: {status}")


def set_authority(dialled: Dialled, authority: str, access_token: str | None) -> None:
    """Let programs in the sandbox trust the certificate ``authority`` (PEM), or none if it is empty. This closes the socket.

    Raises: AgentUnreachableError, also if a file in the sandbox cannot be changed.
    """
    status = _post(dialled, InitUpdate(ca_bundle=authority), access_token)
    if status != http.client.NO_CONTENT:
        raise AgentUnreachableError(f"programs in the sandbox cannot be made to trust its authority: {status}")


def _post(dialled: Dialled, update: InitUpdate, access_token: str | None) -> int:
    headers = {"Content-Type": "application/json"}
    if access_token is not None:
        headers["X-Access-Token"] = access_token
    with post(dialled, "/init", update.to_json(), headers, _TIMEOUT_S) as response:
        return response.status
