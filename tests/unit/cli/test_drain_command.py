"""``cloister drain --wait``: another operator's ``--undo`` ends it."""

from __future__ import annotations

import os

import pytest

from cloister.cli import drain
from cloister.cli.main import main
from cloister.model.drain import Drained, DrainState


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may drain a server")
def test_a_drain_that_waits_does_not_begin_again_what_was_undone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so and stops, and the server goes on to take sandboxes."""
    state = DrainState(since=0)
    states: list[DrainState | None] = [state, None]
    begun = []

    def change(*_: object, **options: object) -> Drained:
        begun.append(options)
        return Drained(state=state, running=1, paused={})

    monkeypatch.setattr(drain, "change_drain", change)
    monkeypatch.setattr(drain, "drain_state", lambda _: states.pop(0))
    monkeypatch.setattr(drain, "_POLL_S", 0.0)
    assert main(["drain", "--wait", "30"]) == 1
    assert (len(begun), states) == (2, [])
    assert "undone" in capsys.readouterr().err
