"""Captures with memory on the node: whole or not there, for their own team, and gone with their build."""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.errors import AgentUnreachableError, RuntimeFailedError, UnavailableError
from cloister.ids import new_build_id
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxState
from cloister.model.secret import Secret
from cloister.node.memory_captures import MemoryCaptures
from cloister.protocol.dialled import Dialled
from cloister.runtime.base import BrokenSandboxError
from cloister.runtime.registry import Runtimes

RECORD = SandboxRecord(
    sandbox_id="s1", template="t", runtime="fake", state=SandboxState.RUNNING, started_at=0.0, end_at=1.0, limits=Limits(),
    team_id="one", access_token=Secret("original"),
)  # fmt: skip


class FakeSandbox:
    """Notes what is done to it; saves files in place of memory."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.faults: list[Exception] = []
        self.disk_fault: Exception | None = None
        self.why_ended = ""

    def usage(self) -> Any:
        """What it uses."""
        return SimpleNamespace(mem_used_bytes=5, disk_used_bytes=7)

    def dial(self) -> Dialled:
        """Note it; the agent does not answer, and what is announced to it is not heard."""
        self.log.append("announce")
        raise AgentUnreachableError("silent")

    def kill(self) -> None:
        """Note it."""
        self.log.append("kill")

    def has_ended(self) -> bool:
        """It lives."""
        return False

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Note the beginning and the end."""
        self.log.append("freeze")
        try:
            yield
        finally:
            self.log.append("thaw")

    def checkpoint(self, directory: Path, *, is_durable: bool) -> int:
        """Save the memory, or raise the next fault."""
        assert not is_durable  # what takes long is not for the standstill
        self.log.append("checkpoint")
        if self.faults:
            raise self.faults.pop(0)
        directory.mkdir()
        (directory / "pages").write_text("memory")
        return 6

    def write_disk(self) -> None:
        """Write the disk out."""
        self.log.append("write_disk")

    def copy_disk(self, directory: Path) -> None:
        """Save the disk, or raise."""
        self.log.append("copy_disk")
        if self.disk_fault is not None:
            raise self.disk_fault
        (directory / "disk.img").write_text("disk")


class Lab:
    """The captures of a fake runtime."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "captures"
        self.sandbox = FakeSandbox()
        self.claims: list[int] = []
        self.captures = self.anew()

    def anew(self) -> MemoryCaptures:
        """As a supervisor that has started again has them."""
        runtime = SimpleNamespace(name="fake", close_copy=lambda _: self.sandbox.log.append("close_copy"))
        return MemoryCaptures(self.directory, Runtimes([cast("Any", runtime)], "fake"), cast("Any", self))

    def claim(self, _directory: Path, size: int) -> contextlib.AbstractContextManager[None]:
        """Note it."""
        self.claims.append(size)
        return contextlib.nullcontext()

    def take(self, record: SandboxRecord = RECORD) -> str:
        """Take one; gives its build id."""
        build_id = new_build_id()
        self.captures.take(record, cast("Any", self.sandbox), build_id)
        return build_id


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab of the test's own."""
    return Lab(tmp_path)


def test_memory_and_disk_are_of_one_standstill(lab: Lab) -> None:
    """Both are saved before the sandbox goes on; what takes long is done afterwards; a restart finds the whole."""
    build_id = lab.take()
    assert lab.sandbox.log == ["write_disk", "announce", "freeze", "checkpoint", "copy_disk", "thaw", "announce", "close_copy"]
    assert lab.claims == [12]
    found = lab.anew().find(build_id)
    assert (found.image_bytes, found.original_token, found.disk_bytes > 0) == (6, "original", True)
    assert "original" not in repr(found)
    assert stat.S_IMODE((found.directory / "original.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(found.directory.stat().st_mode) == 0o700


def test_an_insecure_sandbox_has_no_token(lab: Lab) -> None:
    """Its agent asks for none."""
    assert lab.captures.find(lab.take(replace(RECORD, access_token=None))).original_token is None


def test_a_dump_that_fails_for_a_moment_is_tried_again(lab: Lab) -> None:
    """The sandbox runs between two attempts."""
    lab.sandbox.faults = [RuntimeFailedError("in flight")]
    lab.take()
    assert lab.sandbox.log[:7] == ["write_disk", "announce", "freeze", "checkpoint", "thaw", "freeze", "checkpoint"]


def test_a_sandbox_that_was_broken_is_not_captured_again(lab: Lab) -> None:
    """What is broken stays so."""
    lab.sandbox.faults = [BrokenSandboxError("it stands still")]
    with pytest.raises(BrokenSandboxError):
        lab.take()
    assert lab.sandbox.log == ["write_disk", "announce", "freeze", "checkpoint", "thaw", "announce"]


@pytest.mark.parametrize("fault", ["memory", "disk"])
def test_a_failure_leaves_nothing(lab: Lab, fault: str) -> None:
    """The sandbox goes on."""
    if fault == "memory":
        lab.sandbox.faults = [RuntimeFailedError("never")] * 5
    else:
        lab.sandbox.disk_fault = OSError(28, "full")
    with pytest.raises((RuntimeFailedError, OSError)):
        lab.take()
    assert lab.sandbox.log[-2:] == ["thaw", "announce"]
    assert list(lab.directory.iterdir()) == []


def test_only_known_builds_outlive_a_start(lab: Lab) -> None:
    """The others are of builds that were dropped, or were not finished."""
    kept, dropped = lab.take(), lab.take()
    (lab.directory / f"{new_build_id()}.tmp").mkdir()
    lab.anew().sweep({kept}.__contains__)
    assert [path.name for path in lab.directory.iterdir()] == [kept]
    with pytest.raises(UnavailableError, match=dropped):
        lab.captures.find(dropped)


@pytest.mark.parametrize("name", ["", ".", "..", "../captures"])
def test_what_is_no_build_id_removes_nothing(lab: Lab, name: str) -> None:
    """The api process names builds, and may be compromised."""
    kept = lab.take()
    lab.captures.remove(name)
    assert lab.captures.find(kept).image_bytes
    lab.captures.remove(kept)
    assert list(lab.directory.iterdir()) == []


def test_a_damaged_note_is_refused(lab: Lab) -> None:
    """The error says what to do."""
    build_id = lab.take()
    (lab.directory / build_id / "original.json").write_text(json.dumps([]))
    with pytest.raises(UnavailableError) as refused:
        lab.captures.find(build_id)
    assert refused.value.hint
