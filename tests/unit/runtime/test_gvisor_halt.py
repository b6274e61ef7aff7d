"""Two processes are stopped and go on together; the end of one does not matter."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloister.errors import DeadlineError
from cloister.linux.process import start_ticks
from cloister.runtime.gvisor.client import Box, Member
from cloister.runtime.gvisor.halt import Halt
from framework.waiting import eventually

_NAME = "sandbox"

Process = subprocess.Popen[bytes]


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Two of them, which sleep."""
    with ExitStack() as ends:
        made = [ends.enter_context(subprocess.Popen(["sleep", "1000"])) for _ in range(2)]
        for one in made:
            ends.callback(one.kill)
        yield made


def _halt(processes: list[Process]) -> Halt:
    kernel, gofer = (Member(one.pid, start_ticks(one.pid) or 0) for one in processes)
    return Halt(Box(kernel, gofer))


def _state(process: Process) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_they_stop_and_go_on(processes: list[Process]) -> None:
    """Any number of times; a second stop, and a second start, change nothing."""
    halt = _halt(processes)
    for _ in range(3):
        assert not halt.is_to_freeze(_NAME)
        for _ in range(2):
            halt.freeze(_NAME, 10)
            assert halt.is_frozen(_NAME)
            assert [_state(one) for one in processes] == ["T", "T"]
        for _ in range(2):
            halt.thaw(_NAME)
            assert eventually(lambda: "T" not in map(_state, processes))
        assert not halt.is_frozen(_NAME)


def test_a_later_supervisor_sees_that_they_stand_still(processes: list[Process]) -> None:
    """Nothing is remembered but by the host's kernel."""
    _halt(processes).freeze(_NAME, 10)
    later = _halt(processes)
    assert later.is_to_freeze(_NAME)
    later.thaw(_NAME)
    assert eventually(lambda: not later.is_to_freeze(_NAME))


@pytest.mark.parametrize("which", [0, 1])
def test_one_that_has_ended_stands_still(processes: list[Process], which: int) -> None:
    """Reaped or not; the other one is stopped all the same."""
    halt = _halt(processes)
    processes[which].kill()
    assert eventually(lambda: _state(processes[which]) == "Z")
    halt.freeze(_NAME, 10)
    assert _state(processes[1 - which]) == "T"
    processes[which].wait()
    assert halt.is_frozen(_NAME)
    halt.thaw(_NAME)
    assert eventually(lambda: not halt.is_to_freeze(_NAME))


def test_they_run_on_when_they_do_not_stop_in_time(processes: list[Process], monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so, and neither is left stopped."""
    halt = _halt(processes)
    monkeypatch.setattr(Halt, "is_frozen", lambda *_: False)
    with pytest.raises(DeadlineError):
        halt.freeze(_NAME, 0)
    assert eventually(lambda: not halt.is_to_freeze(_NAME))
