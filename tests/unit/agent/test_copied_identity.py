"""The agent of a copied sandbox: names, events, random state."""

from __future__ import annotations

import random
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.agent.events import EventLog
from cloister.agent.identity import become_copy
from cloister.agent.state import AgentState, read_init
from cloister.protocol.copied_sandbox import CopiedSandbox
from cloister.protocol.init_document import InitDocument


def test_names_and_state(tmp_path: Path) -> None:
    """The copy's name replaces the original's in both files, and nothing else; variables stay if none are given."""
    (tmp_path / "hostname").write_text("i1\n", encoding="utf-8")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n127.0.0.1 i1\n10.0.0.1 i1.example i10\n", encoding="utf-8")
    state = AgentState.from_document(InitDocument(sandbox_id="i1", envs={"A": "1"}, access_token="old"))
    events = EventLog()
    events.record("process.started")
    agent_id = events.agent_id
    become_copy(CopiedSandbox(sandbox_id="i2", access_token="new", hostname="i2"), state, events, None, tmp_path, tmp_path / "e2b")
    assert (tmp_path / "hostname").read_text(encoding="utf-8") == "i2\n"
    assert (tmp_path / "hosts").read_text(encoding="utf-8") == "127.0.0.1 localhost\n127.0.0.1 i2\n10.0.0.1 i1.example i10\n"
    assert (tmp_path / "e2b" / ".E2B_SANDBOX_ID").read_text(encoding="utf-8") == "i2"
    assert (state.document.sandbox_id, state.access_token, state.envs, state.is_copy) == ("i2", "new", {"A": "1"}, True)
    assert events.agent_id != agent_id
    assert events.since(0) == []
    events.record("process.started")
    assert events.since(0)[0].sequence == 0


def test_an_agent_that_is_started_again_is_the_copys(tmp_path: Path) -> None:
    """It reads the document anew; whatever the lengths are, nothing of the original's token is left in it."""
    document = InitDocument(sandbox_id="i1", envs={"A": "1" * 900}, access_token="secret")
    with (tmp_path / "init").open("w+b", buffering=0) as file:
        file.write(document.to_json())
        state = AgentState.blank()
        state.become(read_init(file.fileno()), file.fileno())
        become_copy(CopiedSandbox(sandbox_id="i2", access_token="new", envs={"A": "2"}), state, EventLog(), None)
        assert read_init(file.fileno()) == replace(document, sandbox_id="i2", access_token="new", envs={"A": "2"})
        assert b"secret" not in (tmp_path / "init").read_bytes()


def test_an_agent_that_cannot_note_it_stays_the_originals() -> None:
    """The server ends the copy then, because the agent refuses."""
    state = AgentState.blank()
    state.become(InitDocument(sandbox_id="i1", access_token="old"), -1)
    with pytest.raises(OSError, match="descriptor"):
        become_copy(CopiedSandbox(sandbox_id="i2", access_token="new"), state, EventLog(), None)
    assert (state.document.sandbox_id, state.access_token) == ("i1", "old")


def test_two_copies_differ() -> None:
    """Agents with the same memory draw different numbers after they became copies."""
    drawn = set()
    before = random.getstate()
    for number in range(2):
        random.setstate(before)
        uuid._last_timestamp = 2**62  # type: ignore[attr-defined]  # as if the original had drawn one in the far future
        state = AgentState.from_document(InitDocument(sandbox_id="i1"))
        become_copy(CopiedSandbox(sandbox_id=str(number), access_token=None), state, EventLog(), None)
        assert uuid._last_timestamp is None  # type: ignore[attr-defined]  # as above
        drawn.add(random.getrandbits(64))
    assert len(drawn) == 2
