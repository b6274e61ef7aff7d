"""Entries of the server in a sandbox's log."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.control.logs import SandboxLogs
from cloister.model.lifecycle import Pause, PauseKind
from cloister.model.log import LogEntry
from cloister.model.sandbox import EndReason

_ASKED_FOR = (EndReason.KILLED, EndReason.EXPIRED, EndReason.STOPPED, EndReason.PAUSED_TOO_LONG)


@pytest.mark.parametrize("reason", EndReason)
def test_ends_that_were_asked_for_are_no_errors(reason: EndReason) -> None:
    """A kill, the end of the lifetime or of a pause, and a stop of the server are information; every other reason is an error."""
    entries: list[LogEntry] = []
    store = SimpleNamespace(append=lambda _sandbox_id, new: entries.extend(new))
    row = SimpleNamespace(end_reason=reason, end_message="why", ended_at=1.0)
    registry = SimpleNamespace(ended=lambda _sandbox_id: row)
    SandboxLogs(cast("Any", store), cast("Any", registry), cast("Any", None)).ended("one")
    assert [(entry.event, entry.fields) for entry in entries] == [("sandbox.ended", {"reason": reason.value, "message": "why"})]
    assert (entries[0].level == "info") == (reason in _ASKED_FOR)


def test_pauses_and_resumes() -> None:
    """The log says how a paused sandbox is kept and who asked for each, in the order in which they happened."""
    entries: list[LogEntry] = []
    store = SimpleNamespace(append=lambda _sandbox_id, new: entries.extend(new))
    logs = SandboxLogs(cast("Any", store), cast("Any", None), cast("Any", None))
    pause = Pause(kind=PauseKind.FROZEN, at=5.0, why_not_deeper="it has a System V segment")
    row = SimpleNamespace(sandbox_id="one", pause=pause, started_at=2e9, end_at=2e9 + 60)
    logs.paused(cast("Any", row), "timeout")
    logs.resumed(cast("Any", row), "traffic")
    kept = {"kept": "frozen", "cause": "timeout", "agent_silent": "false", "why_not_deeper": "it has a System V segment"}
    assert [(entry.event, entry.fields) for entry in entries] == [
        ("sandbox.paused", kept),
        ("sandbox.resumed", {"cause": "traffic", "timeout_s": "60"}),
    ]
