"""The census counts paused sandboxes: frozen ones have processes, those on disk have none, and neither is a leftover."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cloister.cli.census import take_census
from cloister.cli.main import main
from cloister.config.settings import Settings
from cloister.linux.process import start_ticks
from cloister.model.lifecycle import Pause, PauseKind
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxState
from cloister.node.journal import Journal

HERE: dict[str, Any] = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())}
GONE: dict[str, Any] = {"pid": os.getpid(), "start_ticks": -1}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of a server without an instance number, and a journal with each kind of sandbox."""
    journal = Journal(tmp_path / "data/node/sandboxes", tmp_path / "run/none/records")
    journal.open()
    sandboxes: tuple[tuple[str, PauseKind | None, dict[str, Any] | None], ...] = (
        ("runs", None, HERE),
        ("dead", None, GONE),
        ("frozen", PauseKind.FROZEN, HERE),
        ("rebooted", PauseKind.FROZEN, GONE),
        ("files", PauseKind.FILES, {"trees": []}),
        ("older", PauseKind.FILES, None),
    )
    for name, kind, state in sandboxes:
        record = SandboxRecord(
            sandbox_id=name,
            template="t",
            runtime="namespace",
            state=SandboxState.RUNNING if kind is None else SandboxState.PAUSED,
            started_at=0,
            end_at=9,
            limits=Limits(),
            pause=None if kind is None else Pause(kind=kind, at=1),
        )
        journal.write(record, state)
    return Settings(data_dir=tmp_path / "data", run_dir=tmp_path / "run")


def test_paused_sandboxes_are_no_leftovers(settings: Settings) -> None:
    """A running one without processes is; a frozen one without processes will be kept by its files."""
    census = take_census(settings)
    assert sorted(census.live) == ["frozen", "runs"]
    assert census.frozen == 1
    assert sorted(census.on_disk) == ["files", "older", "rebooted"]
    assert census.leftovers == ["journal entry dead of a sandbox that is gone"]


@pytest.mark.skipif(os.geteuid() != 0, reason="this machine's user is not root")
def test_they_are_told(settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line counts what has processes, the second what is on disk; the exit code is about leftovers."""
    monkeypatch.setattr("cloister.cli.census._LOOK_AGAIN_S", 0)
    assert main(["census", "--data-dir", str(settings.data_dir), "--run-dir", str(settings.run_dir)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 live sandboxes (1 of them frozen), 0 objects held, 1 left over"
    assert lines[1] == "3 paused sandboxes on disk"
