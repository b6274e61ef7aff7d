"""Which processes are killed, and what is said of it; the kernel's files are played by a directory where dying takes forever."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.agent.process.tree import Killer, kill_tree, tree_of


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a session."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def write_stat(proc: Path, pid: int, session: int, *, started: int, state: str = "R") -> None:
    """What the kernel tells of a process."""
    (proc / str(pid)).mkdir(exist_ok=True)
    fields = [state, 1, session, session, *[0] * 15, started, 0]
    (proc / str(pid) / "stat").write_text(f"{pid} (a name) with (in it) {' '.join(map(str, fields))}\n", encoding="ascii")


def test_a_process_that_is_slow_to_die_is_killed_once(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """A second kill finds nothing new while the first one's process is dying still; another process, also of the same number, counts."""
    write_stat(tmp_path, sleeper.pid, sleeper.pid, started=7)
    killer = Killer(sleeper.pid, tmp_path)
    assert killer.kill()
    assert not killer.kill()
    assert sleeper.wait(10) == -9
    write_stat(tmp_path, sleeper.pid, sleeper.pid, started=8)
    assert killer.kill()
    assert not killer.kill()


def test_a_zombie_is_not_there(tmp_path: Path) -> None:
    """One that only waits for its parent to ask is no process to kill."""
    write_stat(tmp_path, 5, 5, started=7, state="Z")
    assert not Killer(5, tmp_path).kill()


def test_session_and_descendants(sleeper: subprocess.Popen[bytes]) -> None:
    """The tree has the session's members; a kill ends it, and is told of once it is gone."""
    assert list(tree_of(sleeper.pid)) == [sleeper.pid]
    assert tree_of(sleeper.pid)[sleeper.pid] > 0
    assert kill_tree(sleeper.pid)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not kill_tree(sleeper.pid)
