"""Real sandboxes whose memory the server saves on disk. It is there after a stop, a restart of the host and deaths."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from cloister.model.lifecycle import PauseKind
from cloister.model.sandbox import SandboxState
from framework.inside import python, shell
from framework.server import Server, running_server
from framework.subjects import BOOT_ID, Subject, killed_during, reboot
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.usefixtures("criu")]

OPTIONS = ("--checkpoint", "auto", "--paused-to-disk-s", "1")
ROUNDS = 5
_PATIENCE_S = 90.0
"""A supervisor starts, tries CRIU and saves a sandbox within it, on a busy host too."""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A data directory for several servers."""
    with tempfile.TemporaryDirectory(prefix="cloister-test-") as path:
        yield Path(path)


def until_saved(subject: Subject) -> None:
    """Wait until its memory is on disk and it holds nothing else."""

    def is_saved() -> bool:
        pause = subject.record().pause
        return pause is not None and pause.kind is PauseKind.CHECKPOINT

    eventually(is_saved, _PATIENCE_S)
    assert subject.group() is None


def made(server: Server) -> Subject:
    """A sandbox with a variable, a running command and files."""
    subject = Subject(server, envs={"SECRET": "s3cret"})
    subject.fill()
    python(subject.sandbox, "kept = bytearray(20_000_000); kept[-1] = 42")
    subject.sandbox.commands.run("sleep 1000", background=True)
    return subject


def goes_on(subject: Subject, boot: str) -> None:
    """It is where it was: memory, processes, files, boot id."""
    sandbox = subject.awake()
    assert python(sandbox, "print(kept[-1], len(kept))").split() == ["42", "20000000"]
    assert [process.cmd for process in sandbox.commands.list()]
    assert shell(sandbox, BOOT_ID).text == boot
    subject.is_whole()


def test_memory_is_saved_after_a_time_and_restored() -> None:
    """A frozen sandbox gives back its memory, and a resume goes on with it, again and again. Without it the sandbox starts anew."""
    with running_server(*OPTIONS) as server:
        subject = made(server)
        boot = shell(subject.sandbox, BOOT_ID).text
        for _ in range(2):
            subject.sandbox.pause()
            until_saved(subject)
            goes_on(subject, boot)
            assert not (subject.directory() / "memory").exists()
        subject.sandbox.pause()
        until_saved(subject)
        subject.resume(memory=False)
        assert "NameError" in str(subject.awake().run_code("kept").error)
        subject.is_whole()
        assert subject.kill()


def test_nothing_is_lost_over_a_stop_and_a_restart_of_the_host(directory: Path) -> None:
    """A planned stop saves a running sandbox. The next server goes on with it, also if the host went down in between."""
    with running_server(*OPTIONS, "--on-stop", "pause", data_dir=directory) as server:
        subject = made(server)
        boot = shell(subject.sandbox, BOOT_ID).text
        assert server.stop() == 0
    with running_server(*OPTIONS, "--on-stop", "kill", data_dir=directory) as server:
        subject.move_to(server)
        until_saved(subject)
        goes_on(subject, boot)
        subject.awake().pause()
        until_saved(subject)
        reboot(server)
        with running_server(*OPTIONS, data_dir=directory) as after:
            subject.move_to(after)
            until_saved(subject)
            goes_on(subject, boot)
            assert Sandbox.kill(subject.id, **after.sdk)


def until_usable(server: Server) -> None:
    """Wait until the server has tried whether it can save memory."""
    eventually(lambda: "checkpoint.works" in server.log.read_text().rpartition("node.started")[2], _PATIENCE_S)


@pytest.mark.parametrize("change", ["save", "restore"])
def test_a_supervisor_may_die_while_memory_is_moved(change: str) -> None:
    """At any moment of it: the sandbox is paused or runs, and its files are whole. Its memory is, too, unless a restore was cut off."""
    rng = random.Random(20_261_130)
    with running_server(*OPTIONS) as server:
        until_usable(server)
        subject = made(server)
        boot = shell(subject.sandbox, BOOT_ID).text
        for _ in range(ROUNDS):
            subject.pause()
            if change == "save":
                killed_during(subject, lambda: time.sleep(3), delayed(1.0 + rng.uniform(0, 1.0)))
            else:
                until_saved(subject)
                until_usable(server)
                killed_during(subject, subject.resume, delayed(rng.uniform(0, 0.5)))
            record = subject.record()
            assert record.state in (SandboxState.PAUSED, SandboxState.RUNNING)
            until_usable(server)
            subject.resume()
            subject.is_whole()
            if change == "save":
                goes_on(subject, boot)
        assert subject.kill()


def delayed(seconds: float) -> Callable[[], bool]:
    """True after some time."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until
