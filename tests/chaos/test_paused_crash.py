"""kill -9 of the supervisor at any moment of a pause or a resume: no sandbox is lost, no file changes, and nothing leaks (I8)."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from cloister.model.sandbox import SandboxState
from framework.inside import python, shell
from framework.server import running_server
from framework.subjects import Subject, killed_during

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.slow]

ROUNDS = 6


def after(seconds: float) -> Callable[[], bool]:
    """After some time."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


@pytest.mark.parametrize("memory", [True, False])
def test_a_supervisor_may_die_at_any_moment(memory: bool) -> None:
    """Killed at moments spread over a pause and over a resume, of both kinds. Each time the next one has the sandbox, paused or running."""
    rng = random.Random(20_261_130)
    longest_s = 0.02 if memory else 0.15
    with running_server() as server:
        subject = Subject(server)
        subject.fill()
        seen = set()
        for number in range(ROUNDS):
            subject.resume()
            shell(subject.awake(), f"echo {number} > /opt/round")
            killed_during(subject, lambda: subject.pause(memory=memory), after(rng.uniform(0, longest_s)))
            seen.add(("pause", subject.record().state))
            subject.pause(memory=memory)
            killed_during(subject, subject.resume, after(rng.uniform(0, longest_s)))
            seen.add(("resume", subject.record().state))
            subject.resume()
            subject.is_whole(number)
        assert {state for _, state in seen} <= {SandboxState.RUNNING, SandboxState.PAUSED}
        assert subject.sandbox.kill()


@pytest.mark.parametrize(("state", "has_processes"), [("pausing", True), ("resuming", False), ("resuming", True)])
def test_a_supervisor_may_die_in_each_step_of_a_files_pause(state: str, has_processes: bool) -> None:
    """Killed as soon as the journal has the step: the sandbox is kept as files, or runs, and can be resumed."""
    with running_server() as server:
        subject = Subject(server)
        subject.fill()
        if state == "resuming":
            subject.pause(memory=False)
        change = subject.resume if state == "resuming" else lambda: subject.pause(memory=False)
        assert killed_during(subject, change, lambda: subject.journaled() == (state, has_processes))
        assert subject.record().state in (SandboxState.PAUSED, SandboxState.RUNNING)
        subject.resume()
        subject.is_whole(0)
        assert subject.sandbox.kill()


def test_a_killed_launcher_leaves_paused_sandboxes_to_the_next_server() -> None:
    """All three processes of the server die; the next start on the directory has them paused, and they go on."""
    with tempfile.TemporaryDirectory(prefix="cloister-test-") as directory, running_server(data_dir=Path(directory)) as server:
        frozen, files = Subject(server), Subject(server)
        frozen.fill()
        files.fill()
        python(frozen.sandbox, "kept = 41")
        frozen.pause(memory=True)
        files.pause(memory=False)
        children = [server.child(name) for name in ("node", "api")]
        server.process.kill()
        server.process.wait()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with running_server(data_dir=Path(directory)) as again:
            for one in (frozen, files):
                one.move_to(again)
                assert one.record().state is SandboxState.PAUSED
                one.is_whole(0)
            assert Sandbox.connect(frozen.id, **again.sdk).run_code("kept + 1").text == "42"
            for one in (frozen, files):
                assert Sandbox.kill(one.id, **again.sdk)
