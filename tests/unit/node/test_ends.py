"""Why sandboxes ended: kept over restarts, bounded, and the first reason counts."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from cloister.model.node import EndedSandbox
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxState
from cloister.node.ends import EndLog, why_gone
from framework.waiting import eventually


def ended(number: int, reason: EndReason = EndReason.STOPPED) -> EndedSandbox:
    """An end with something in every field."""
    return EndedSandbox(sandbox_id=f"{number:020}", reason=reason, message="a 'reason'\nü", at=number + 0.5)


def test_ends_outlive_the_process(tmp_path: Path) -> None:
    """A new object over the same file knows them all; a line that a crash cut off costs no other."""
    ends = EndLog(tmp_path / "e")
    for number in range(3):
        ends.store(ends.decide(ended(number)))
    ends.sync()
    with (tmp_path / "e").open("a") as file:
        file.write('{"sandbox_id": "00')
    again = EndLog(tmp_path / "e")
    assert again.find([ended(0).sandbox_id, "unknown", ended(2).sandbox_id]) == [ended(0), ended(2)]
    again.store(again.decide(ended(3)))
    assert EndLog(tmp_path / "e").find([ended(3).sandbox_id]) == [ended(3)]
    assert (tmp_path / "e").stat().st_mode & 0o777 == 0o600


def test_the_first_reason_counts(tmp_path: Path) -> None:
    """A later end of the same sandbox changes nothing."""
    ends = EndLog(tmp_path / "e")
    ends.store(ends.decide(ended(1, EndReason.EXPIRED)))
    assert ends.decide(ended(1, EndReason.CRASHED)) == ended(1, EndReason.EXPIRED)
    assert EndLog(tmp_path / "e").decide(ended(1, EndReason.CRASHED)) == ended(1, EndReason.EXPIRED)


def test_ends_are_bounded(tmp_path: Path) -> None:
    """In memory and on disk the oldest go."""
    ends = EndLog(tmp_path / "e", kept=10)
    for number in range(100):
        ends.store(ends.decide(ended(number)))
    assert ends.find([ended(89).sandbox_id, ended(90).sandbox_id]) == [ended(90)]
    assert len((tmp_path / "e").read_bytes().splitlines()) <= 20
    assert EndLog(tmp_path / "e", kept=10).find([ended(89).sandbox_id, ended(90).sandbox_id]) == [ended(90)]


def test_a_full_disk_does_not_keep_a_sandbox_alive(tmp_path: Path) -> None:
    """An end that cannot be written is known all the same while the process lives."""
    ends = EndLog(tmp_path / "nowhere" / "e")
    ends.store(ends.decide(ended(1)))
    assert ends.find([ended(1).sandbox_id]) == [ended(1)]


def test_a_line_that_was_cut_off_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk takes only half of a line, the next end is kept whole."""
    ends, write = EndLog(tmp_path / "e"), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:20]))
    ends.store(ends.decide(ended(1)))
    monkeypatch.undo()
    ends.store(ends.decide(ended(2)))
    assert EndLog(tmp_path / "e").find([ended(1).sandbox_id, ended(2).sandbox_id]) == [ended(2)]


def test_an_end_is_decided_while_another_is_written(tmp_path: Path) -> None:
    """A disk that is slow keeps nothing waiting that the event loop asks."""
    os.mkfifo(tmp_path / "e")
    ends = EndLog()
    ends._path = tmp_path / "e"
    storing = threading.Thread(target=ends.store, args=(ended(1),))
    storing.start()
    try:
        eventually(ends._file_lock.locked)
        assert ends.decide(ended(2)) == ended(2)
        assert ends.find([ended(2).sandbox_id]) == [ended(2)]
        assert storing.is_alive()
    finally:
        (tmp_path / "e").read_bytes()
        storing.join()


@pytest.mark.parametrize(
    ("started_ago_s", "left_s", "expected"),
    [
        (60.0, -5.0, (EndReason.EXPIRED, "its lifetime was over")),
        (1.0, 60.0, (EndReason.CRASHED, "it ended while the node supervisor was away")),
        (1e9, 60.0, (EndReason.CRASHED, "the host was restarted")),
    ],
)
def test_why_a_sandbox_is_gone(started_ago_s: float, left_s: float, expected: tuple[EndReason, str]) -> None:
    """A supervisor that starts tells apart a lifetime that was over, a restart of the host, and a death that it did not see."""
    now = time.time()
    gone = SandboxRecord(
        sandbox_id="a" * 20,
        template="t",
        runtime="r",
        state=SandboxState.RUNNING,
        started_at=now - started_ago_s,
        end_at=now + left_s,
        limits=Limits(),
    )
    assert why_gone(gone, now) == expected
