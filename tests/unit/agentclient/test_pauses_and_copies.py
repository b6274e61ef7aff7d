"""The server's calls before a pause and for a copy, to an agent that is a plain process."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cloister.agentclient.copies import become_copy
from cloister.agentclient.pausing import announce_pause
from cloister.errors import AgentUnreachableError, InvalidRequestError
from cloister.protocol.copied_sandbox import CopiedSandbox
from cloister.protocol.dialled import Dialled, on_loopback
from cloister.protocol.pausing import Standstill
from framework.lone_agent import Descriptors, LoneAgent

OLD, NEW = "o" * 40, "n" * 40


class _Inside(socket.socket):
    """A socket of the agent's network: its one address is the agent's."""

    port = 0

    def connect(self, address: Any) -> None:
        """See the class."""
        super().connect(("127.0.0.1", self.port))


@pytest.fixture
def agent() -> Iterator[Descriptors]:
    """An agent with a token, variables and no kernels yet."""
    user = pwd.getpwuid(os.getuid()).pw_name
    descriptors = Descriptors(
        {
            "sandbox_id": "original",
            "access_token": OLD,
            "envs": {"A": "1", "B": "2"},
            "user": user,
            "kernel_user": user,
        }
    )
    process = LoneAgent(descriptors, {})
    descriptors.wait_ready()
    yield descriptors
    process.close()
    descriptors.close()


def _dial(port: int) -> Dialled:
    sock = _Inside(socket.AF_INET, socket.SOCK_STREAM)
    sock.port = port
    return on_loopback(sock)


def test_a_pause_is_announced(agent: Descriptors) -> None:
    """The announcement is taken with the token, and refused without it."""
    for kind in Standstill:
        announce_pause(_dial(agent.control_port), OLD, kind)
    with pytest.raises(AgentUnreachableError, match="401"):
        announce_pause(_dial(agent.control_port), None)


def test_a_copy_has_its_own_identity(agent: Descriptors) -> None:
    """After the call the agent demands the copy's token, and has its variables; the original's token opens nothing."""
    copy = CopiedSandbox(sandbox_id="copy", access_token=NEW, envs={"A": "3"})
    become_copy(_dial(agent.control_port), copy, OLD)
    assert agent.request("GET", "/envs", control=True, token=OLD)[0] == 401
    status, text = agent.request("GET", "/envs", control=True, token=NEW)
    assert (status, json.loads(text)) == (200, {"A": "3"})
    with pytest.raises(AgentUnreachableError, match="401"):
        become_copy(_dial(agent.control_port), copy, OLD)


def test_an_agent_that_is_gone(agent: Descriptors) -> None:
    """Both calls say that the agent does not answer, within a bounded time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(AgentUnreachableError, match="does not answer"):
            announce_pause(_dial(port), OLD)
    with pytest.raises(AgentUnreachableError, match="does not answer"):
        become_copy(_dial(port), CopiedSandbox(sandbox_id="copy", access_token=NEW), OLD)


def test_an_agent_that_sends_a_byte_now_and_then() -> None:
    """An agent that is not ours any more cannot hold up a pause, and so its deadline, by a slow answer."""
    over = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            while not over.wait(0.05):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip, args=(listener,))
        dripping.start()
        try:
            with pytest.raises(AgentUnreachableError):
                announce_pause(_dial(listener.getsockname()[1]), OLD)
        finally:
            over.set()
            dripping.join()


def test_the_body_of_an_announcement() -> None:
    """It reads back as it was written; an earlier release sends none, and anything else is refused."""
    assert [Standstill.from_json(kind.to_json()) for kind in Standstill] == [*Standstill]
    assert Standstill.from_json(b"") is Standstill.MEMORY
    for wrong in (b"[]", b"{}", b"x", b'{"kind": 5}', b'{"kind": "other"}', b'{"kind": []}'):
        with pytest.raises(InvalidRequestError):
            Standstill.from_json(wrong)


def test_the_document_of_a_copy() -> None:
    """It reads back as it was written, hides its secrets, and anything else is refused."""
    copy = CopiedSandbox(sandbox_id="c", access_token="secret", envs={"A": "secret"}, hostname="h")
    assert CopiedSandbox.from_json(copy.to_json()) == copy
    assert "secret" not in repr(copy)
    plain = CopiedSandbox(sandbox_id="c", access_token=None)
    assert CopiedSandbox.from_json(plain.to_json()) == plain
    whole = json.loads(plain.to_json())
    for wrong in (b"", b"[]", b"{}", *(json.dumps({**whole, name: 5}).encode() for name in whole)):
        with pytest.raises(InvalidRequestError):
            CopiedSandbox.from_json(wrong)
