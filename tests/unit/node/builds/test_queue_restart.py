"""Builds and the end of the server: stops, crashes and full disks lose none of them, and repeat none that had ended."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.errors import NotFoundError, StorageFullError
from cloister.model.build import BuildStatus
from cloister.model.template import Template
from cloister.node.builds.queue import QueueLimits
from cloister.node.builds.records import BuildRecords
from framework.fake_builds import SECRET, Node, build_id, request
from framework.waiting import eventually


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node whose builds wait for the gate."""
    node = Node(tmp_path / "builds")
    yield node
    node.builds.stop()


def test_a_stop_puts_builds_back(node: Node) -> None:
    """A clean stop kills what runs without ending the builds; the next start builds them, however often that happens."""
    for number in (1, 2, 3):
        node.builds.enqueue(request(number))
    for _ in range(4):
        eventually(lambda: len(node.stages.begun) >= 2)
        node.builds.stop()
        assert node.stages.begun == [build_id(1), build_id(2)] or sorted(node.stages.begun) == [build_id(1), build_id(2)]
        assert node.ended == []
        assert SECRET in node.on_disk()
        node.stages.begun.clear()
        node.start()
    node.stages.gate.set()
    for number in (1, 2, 3):
        node.wait(BuildStatus.READY, number)
    assert any("server stops" in line for line in node.log())
    assert any("started again" in line for line in node.log())
    assert SECRET not in node.on_disk()


def test_nothing_begins_during_a_stop(node: Node) -> None:
    """A build that ends while the server stops makes no room for another."""
    node.limits = QueueLimits(running=1)
    node.start()
    for number in (1, 2):
        node.builds.enqueue(request(number))
    node.wait_begun(1)
    node.builds.stop()
    assert node.stages.begun == [build_id(1)]
    assert node.builds.counts()["building"] == 0


def test_a_crash_is_survived(node: Node) -> None:
    """Builds that a crash cut off are begun anew in their order; their logs go on where they were."""
    for number in (1, 2, 3):
        node.builds.enqueue(request(number))
    node.wait_begun(1, 2)
    eventually(lambda: node.report().total == 2 and node.report(2).total == 2)
    node.die()
    node.stages.begun.clear()
    node.stages.gate.set()
    node.start()
    for number in (1, 2, 3):
        node.wait(BuildStatus.READY, number)
    lines = node.log()
    assert lines[:2] == ["one", "two"]
    assert "started again" in lines[2]
    assert lines[3:] == ["one", "two", "trying"]
    assert node.log(3) == ["one", "two", "trying"]


def test_a_build_that_kills_the_server_is_given_up(node: Node) -> None:
    """After three crashes during one build it is ended, so that the server is not brought down again and again."""
    node.builds.enqueue(request())
    for _ in range(3):
        eventually(lambda: node.report().status is BuildStatus.BUILDING)
        node.die()
        node.start()
    report = node.report()
    assert (report.status, report.message) == (BuildStatus.ERROR, "the server died 3 times during this build")
    assert SECRET not in node.on_disk()


@pytest.mark.parametrize("flag", ["is_cancelled", "is_dropped"])
def test_what_was_wanted_before_a_crash_is_done_after_it(node: Node, flag: str) -> None:
    """A cancellation or removal that was answered holds, though the server died before it was carried out."""
    node.builds.enqueue(request())
    node.wait_begun(1)
    node.die()
    path = node.directory / build_id(1) / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), flag: True}))
    node.stages.begun.clear()
    node.stages.made[build_id(1)] = Template(template_id="t", name="n", build_id=build_id(1), layers=())
    node.start()
    assert SECRET not in node.on_disk()
    if flag == "is_cancelled":
        assert node.report().message == "the build was cancelled"
    else:
        assert node.stages.made == {}
        assert not (node.directory / build_id(1)).exists()
        with pytest.raises(NotFoundError):
            node.report()
    assert node.stages.begun == []


def test_a_crash_between_the_two_writes(node: Node) -> None:
    """A request without a state is a build; a directory without either, or with garbage, is removed."""
    node.builds.enqueue(request())
    node.wait_begun(1)
    node.die()
    (node.directory / build_id(1) / "state.json").unlink()
    (node.directory / build_id(2)).mkdir()
    (node.directory / build_id(3)).mkdir()
    (node.directory / build_id(3) / "state.json").write_text('{"status": "sleeping"}')
    node.stages.gate.set()
    node.start()
    node.wait(BuildStatus.READY)
    assert [path.name for path in node.directory.iterdir()] == [build_id(1)]


def test_reports_outlive_a_restart_and_then_their_time(node: Node) -> None:
    """An ended build's report is the same after a restart, and is forgotten when it is old; the template stays."""
    node.stages.gate.set()
    node.builds.enqueue(request())
    before = node.wait(BuildStatus.READY)
    node.start()
    assert node.report() == before
    node.limits = QueueLimits(kept_s=0.0)
    node.start()
    with pytest.raises(NotFoundError):
        node.report()
    assert list(node.directory.iterdir()) == []
    assert list(node.stages.made) == [build_id(1)]


def test_a_full_disk_ends_no_build_twice(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build whose end could not be written has ended nevertheless, and its end is written when there is room."""
    node.builds.enqueue(request())
    node.wait_begun(1)
    write = BuildRecords.write

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(BuildRecords, "write", full)
    with pytest.raises(StorageFullError, match="No space left"):
        node.builds.enqueue(request(2))
    node.stages.gate.set()
    node.wait(BuildStatus.READY)
    monkeypatch.setattr(BuildRecords, "write", write)
    node.builds.tend()
    node.start()
    assert node.report().status is BuildStatus.READY
    assert node.stages.begun == [build_id(1)]


def test_a_log_can_be_followed(node: Node) -> None:
    """Whoever asks for what comes after the last entry gets every entry once, over a restart of the server as well."""
    node.builds.enqueue(request())
    node.wait_begun(1)
    followed: list[str] = []

    def follow() -> BuildStatus:
        report = node.builds.report(build_id(1), len(followed), 1)
        followed.extend(entry.message for entry in report.entries)
        return report.status

    eventually(lambda: follow() and len(followed) == 2)
    node.builds.stop()
    node.stages.gate.set()
    node.start()
    eventually(lambda: follow().is_final)
    while len(followed) < node.report().total:
        follow()
    assert followed == node.log()
    assert len(followed) == 2 + 1 + 1 + 3
