"""``cloister status``: every kind of sandbox is shown with what it holds, and what a stop would take from it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from cloister.cli import status as command
from cloister.cli.main import main
from cloister.linux.meminfo import HostMemory
from cloister.model.lifecycle import Pause, PauseKind
from cloister.model.node import NodeInfo
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxState
from cloister.node.journal import Journal
from cloister.node.stop_plan import OnStop, plan_reboot_without_server, plan_stop
from cloister.processes.status import SandboxStatus, ServerStatus

MIB = 1 << 20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="this machine's user is not root")


def record(sandbox_id: str, kind: PauseKind | None = None, why: str = "") -> SandboxRecord:
    """A running sandbox, or one that is paused in this way."""
    pause = None if kind is None else Pause(kind=kind, at=time.time() - 120, why_not_deeper=why)
    state = SandboxState.RUNNING if pause is None else SandboxState.PAUSED
    return SandboxRecord(
        sandbox_id=sandbox_id, template="base", runtime="namespace", state=state, started_at=0, end_at=9, limits=Limits(), pause=pause
    )


def status(*records: SandboxRecord, on_stop: OnStop = OnStop.KEEP, **changes: Any) -> ServerStatus:
    """That of a server which answers. Each sandbox holds 3 MiB."""
    shown = tuple(
        SandboxStatus(
            sandbox_id=one.sandbox_id,
            team_id="team",
            template=one.template,
            runtime=one.runtime,
            state=one.state,
            kind="" if one.pause is None else one.pause.kind,
            since=time.time() - 120,
            end_at=None,
            resident=3 * MIB,
            swapped=0,
            disk=0,
            why_not_deeper="" if one.pause is None else one.pause.why_not_deeper,
        )
        for one in records
    )
    fields: dict[str, Any] = {
        "instance": 3,
        "node": NodeInfo(node_id="n", version="1.2", instance=3, memory={"available": 0, "reserve": 512 * MIB}, on_stop=on_stop),
        "api_url": "http://127.0.0.1:3000",
        "is_api_up": True,
        "sandboxes": shown,
        "host": HostMemory(total=8192 * MIB, available=700 * MIB, swap_total=0, swap_free=0),
        "stop": plan_stop(records, on_stop, saves_memory=()),
        "reboot": plan_stop(records, on_stop, saves_memory=(), host_goes_down=True),
    }
    return ServerStatus(**{**fields, **changes})


def told(shown: ServerStatus, *, show_all: bool = False) -> str:
    """The text."""
    return "\n".join(command._told(shown, show_all=show_all))


def test_what_runs_and_what_is_paused() -> None:
    """Counts by kind, the memory that frozen ones hold, the loss of a stop and of a reboot, and a row for each paused one."""
    text = told(status(record("i1"), record("i2", PauseKind.FROZEN, "a System V segment"), record("i3", PauseKind.FILES)))
    assert "node       answers, version 1.2, instance 3" in text
    assert "1 running, 2 paused (1 frozen in memory, 1 files only)" in text
    assert "700MiB of 8.0GiB available, reserve 512MiB, no swap, frozen sandboxes hold 3MiB" in text
    assert "on_stop=keep: 3 lose nothing" in text
    assert "reboot     1 lose nothing, 2 lose processes and memory and keep their files (checkpoints keep memory on disk" in text
    assert "not on disk: a System V segment" in text
    assert "runtimes   3 in namespace" in text
    assert " namespace paused frozen" in text
    assert "i2 " in text
    assert "i1 " not in text
    assert "i1 " in told(status(record("i1")), show_all=True)


def test_a_stop_that_kills_is_told_before() -> None:
    """With the way out."""
    text = told(status(record("i1"), on_stop=OnStop.KILL))
    assert "on_stop=kill: 1 end (on_stop=keep or on_stop=pause loses nothing" in text
    assert "reboot     1 end (on_stop=keep or on_stop=pause keeps the files at least" in text


def test_a_server_that_does_not_answer() -> None:
    """Its sandboxes are still shown."""
    reboot = plan_reboot_without_server([record("i1")])
    text = told(status(record("i1"), node=None, is_api_up=False, stop=None, reboot=reboot))
    assert "node       does not answer\napi        does not answer" in text
    assert "1 running" in text
    assert "reboot     1 end (start the server before" in text
    assert "stop  " not in text
    assert "does not run" in told(status(node=None, instance=None))


def test_long_lists_are_cut() -> None:
    """The oldest pauses come first."""
    text = told(status(*(record(f"i{number}", PauseKind.FILES) for number in range(25))))
    assert "and 5 more (--all)" in text


def test_memory_that_cannot_be_moved_is_told() -> None:
    """The supervisor says so."""
    node = NodeInfo(node_id="n", version="1", instance=0, paused={"stuck": 1})
    assert "LOW, and no frozen sandbox can be moved out" in told(status(node=node))


@needs_root
def test_a_stopped_server_has_a_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Read from its journal; the exit code is 1, and sandboxes that were only made ahead are no client's."""
    journal = Journal(tmp_path / "data/node/sandboxes", tmp_path / "run/none/records")
    journal.open()
    journal.write(record("i1", PauseKind.CHECKPOINT), None)
    journal.write(
        SandboxRecord(
            sandbox_id="i2", template="b", runtime="namespace", state=SandboxState.CREATING, started_at=0, end_at=0, limits=Limits()
        ),
        None,
    )
    (journal.directory_of("i1") / "disk.img").write_bytes(b"x" * 4096)
    image = journal.directory_of("i1") / "memory"
    image.mkdir()
    (image / "pages-1.img").write_bytes(b"x" * 8192)
    before = sorted(tmp_path.rglob("*"))
    words = ["status", "--json", "--data-dir", str(tmp_path / "data"), "--run-dir", str(tmp_path / "run")]
    assert main(words) == 1
    shown = json.loads(capsys.readouterr().out)
    (one,) = shown["sandboxes"]
    assert (one["sandbox_id"], one["kind"], one["resident"], one["disk"]) == ("i1", "checkpoint", 0, 3 * 4096)
    assert shown["node"] is None
    assert not shown["api"]["is_up"]
    assert shown["stop"] is None
    assert shown["reboot"]["lose_nothing"] == ["i1"]
    assert sorted(tmp_path.rglob("*")) == before
