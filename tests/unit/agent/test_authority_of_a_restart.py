"""An agent that is started again reads the authority and the token of its client from the init document."""

from __future__ import annotations

import os

from cloister.agent.state import AgentState, read_init
from cloister.protocol.init_document import InitDocument, InitUpdate

AHEAD = InitDocument(sandbox_id="a")
CLIENTS = InitDocument(sandbox_id="a", access_token="token", envs={"A": "1"}, ca_bundle="PEM")


def _state(document: InitDocument) -> tuple[AgentState, int]:
    """The state of an agent, and the descriptor of its document."""
    fd = os.memfd_create("init")
    os.pwrite(fd, document.to_json(), 0)
    state = AgentState.blank()
    state.become(document, fd)
    return state, fd


def test_a_new_authority_is_kept() -> None:
    """With all that the document had; an empty one removes it."""
    state, fd = _state(CLIENTS)
    for bundle in ("other", ""):
        state.update(InitUpdate(ca_bundle=bundle))
        assert read_init(fd) == InitDocument(sandbox_id="a", access_token="token", envs={"A": "1"}, ca_bundle=bundle)
        assert state.document.ca_bundle == bundle
    os.close(fd)


def test_the_document_of_the_client_stays_when_a_sandbox_is_handed_over() -> None:
    """The server has written it while the agent still knew the one of the sandbox made ahead: the token must not get lost."""
    state, fd = _state(AHEAD)
    os.pwrite(fd, CLIENTS.to_json(), 0)
    state.update(InitUpdate({"A": "1"}, "token", "PEM"))
    assert read_init(fd) == CLIENTS
    assert state.access_token == "token"
    os.close(fd)
