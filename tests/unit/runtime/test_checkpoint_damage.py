"""How the supervisor finds out that a killed dumper has broken a process, on processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.runtime.base import BrokenSandboxError
from cloister.runtime.namespace.checkpoint.damage import Marks, end_strays, find_damage, living, wait_untraced
from framework.waiting import eventually

_LEFTOVER = "import os, mmap; f = os.memfd_create('CRIUMFD'); os.truncate(f, 4096); m = mmap.mmap(f, 4096); print(flush=True); input()"
_TRACED = """
import ctypes, os, signal
pid = os.fork()
if pid == 0:
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)
    print(os.getpid(), flush=True)
    signal.pause()
input()
os.kill(pid, signal.SIGKILL)
"""
_CODE = "a process of it still has the dumper's code"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """One that waits for its input's end."""
    started = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stdin is not None
    assert started.stdout is not None
    started.stdin.write("it runs\n")
    started.stdin.flush()
    started.stdout.readline()
    yield started
    started.kill()
    started.communicate()


def state_of(pid: int) -> str:
    """The letter of a process's state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_whole_process_has_no_damage(process: subprocess.Popen[str]) -> None:
    """Whatever became of the dumper; nor has one that was stopped before."""
    before = living([process.pid])
    assert before == {process.pid: Marks(is_stopped=False, has_code=False)}
    assert find_damage(before, was_killed=True) == ""
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: state_of(process.pid) == "T")
    assert find_damage(before, was_killed=False) == "a process of it stands still"
    assert find_damage(living([process.pid]), was_killed=True) == ""


def test_a_process_that_has_ended_counts_after_a_kill_only(process: subprocess.Popen[str]) -> None:
    """A dumper that ends by itself lets processes run for a moment, in which they may end."""
    before = living([process.pid])
    process.kill()
    eventually(lambda: state_of(process.pid) == "Z")
    assert find_damage(before, was_killed=True) == "a process of it has ended"
    assert find_damage(before, was_killed=False) == ""
    assert living([process.pid]) == {}


def test_memory_of_the_dumper_is_found() -> None:
    """By its name, if it is new: a program may have such memory of its own."""
    with subprocess.Popen([sys.executable, "-c", _LEFTOVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        now = living([process.pid])
        assert now == {process.pid: Marks(is_stopped=False, has_code=True)}
        assert find_damage(now, was_killed=True) == ""
        assert find_damage({process.pid: Marks(is_stopped=False, has_code=False)}, was_killed=False) == _CODE
        process.communicate(b"\n")


def test_a_call_of_the_dumper_is_found(process: subprocess.Popen[str]) -> None:
    """At the start of the first code of the process."""
    before = living([process.pid])
    line = next(line for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines() if " r-xp " in line)
    memory = os.open(f"/proc/{process.pid}/mem", os.O_RDWR)
    try:
        os.pwrite(memory, bytes.fromhex("0f05cccccccccccc"), int(line.split("-")[0], 16))
    finally:
        os.close(memory)
    assert find_damage(before, was_killed=False) == _CODE


def test_children_of_the_dumper_are_ended(process: subprocess.Popen[str]) -> None:
    """Those that are not of the group, and no others; here this process is pid 1."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as stray:
        others, pidfd = set(living(_children())), os.pidfd_open(os.getpid())
        try:
            end_strays((os.getpid(), pidfd), lambda: others - {stray.pid}, 30.0)
        finally:
            os.close(pidfd)
        assert stray.wait(30) == -signal.SIGKILL
    assert process.poll() is None


def test_a_tracer_from_outside_is_waited_for(process: subprocess.Popen[str]) -> None:
    """One of the group may be a debugger; a process that is gone is no hindrance."""
    wait_untraced([process.pid, 1 << 30], set, 0.0)
    with subprocess.Popen([sys.executable, "-c", _TRACED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tracer:
        assert tracer.stdout is not None
        traced = int(tracer.stdout.readline())
        wait_untraced([traced], lambda: {tracer.pid}, 0.0)
        with pytest.raises(BrokenSandboxError, match="let go"):
            wait_untraced([traced], set, 0.0)
        tracer.communicate(b"\n")


def _children() -> list[int]:
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        found += map(int, path.read_text().split())
    return found
