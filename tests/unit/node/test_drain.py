"""The drain of a node: what it refuses, and that it lasts until it is undone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.errors import UnavailableError
from cloister.node.drain import Drain
from cloister.node.stop_plan import OnStop


def test_a_drain_outlives_the_process(tmp_path: Path) -> None:
    """Another process refuses creations with the reason, until one of them ends the drain."""
    Drain(tmp_path / "drain.json").begin(reason="a new disk", refuse_resumes=False)
    drain = Drain(tmp_path / "drain.json")
    with pytest.raises(UnavailableError, match=r"drained.*\(a new disk\)"):
        drain.check_creation()
    drain.check_resume()
    drain.begin(reason="", refuse_resumes=True)
    with pytest.raises(UnavailableError, match="resumes none"):
        drain.check_resume()
    drain.end()
    for one in (drain, Drain(tmp_path / "drain.json")):
        one.check_creation()
        one.check_resume()


def test_a_stop_after_a_drain_ends_no_sandbox(tmp_path: Path) -> None:
    """``kill`` becomes ``pause``; the other actions keep the sandboxes anyway."""
    drain = Drain(tmp_path / "drain.json")
    assert drain.action_of_stop(OnStop.KILL) is OnStop.KILL
    drain.begin(reason="", refuse_resumes=False)
    assert [drain.action_of_stop(one) for one in OnStop] == [OnStop.PAUSE, OnStop.KEEP, OnStop.PAUSE]


def test_a_damaged_record_counts_as_a_drain(tmp_path: Path) -> None:
    """A node that an operator empties is not filled because a file is damaged."""
    (tmp_path / "drain.json").write_text("{")
    with pytest.raises(UnavailableError, match="cannot be read"):
        Drain(tmp_path / "drain.json").check_creation()


def test_a_drain_that_is_begun_again_is_written_once(tmp_path: Path) -> None:
    """A command that waits begins it twice a second; a change, or a file that is gone, is written."""
    path = tmp_path / "drain.json"
    drain = Drain(path)
    drain.begin(reason="a", refuse_resumes=False)
    first = path.stat().st_ino, path.stat().st_mtime_ns
    drain.begin(reason="a", refuse_resumes=False)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == first
    path.unlink()
    drain.begin(reason="a", refuse_resumes=False)
    drain.begin(reason="b", refuse_resumes=False)
    assert Drain(path).state == drain.state
