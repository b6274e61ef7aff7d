"""The queue of builds with a fake recipe: each build ends once, with the truth, whatever happens to it or to the server."""

from __future__ import annotations

import errno
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cloister.errors import BuildError, InternalError, NoCapacityError, NotFoundError, RuntimeFailedError, TemplateNotFoundError
from cloister.model.build import BuildReport, BuildRequest, BuildStatus, EndedBuild, ImageSource
from cloister.model.template import Template
from cloister.node.build_records import BuildRecords
from cloister.node.builds import BuildBounds, Builds, BuildWork
from cloister.template.interfaces import BuildLog, Cancellation

_T = TypeVar("_T")
SECRET = "hunter2"


def build_id(number: int) -> str:
    """An id."""
    return f"00000000-0000-4000-8000-{number:012d}"


def request(number: int = 1, team: str = "team") -> BuildRequest:
    """A build of an image behind a password."""
    image = ImageSource(reference="private/image", username="me", password=SECRET)
    return BuildRequest(build_id=build_id(number), template_id=f"t{number}", team_id=team, name="A", image=image)


@dataclass
class Work:
    """A fake of what a build is made by. ``recipe`` waits for ``gate`` as a sandbox does: until it is killed."""

    gate: threading.Event = field(default_factory=threading.Event)
    begun: list[str] = field(default_factory=list)
    made: dict[str, Template] = field(default_factory=dict)
    prepared: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    fault: BaseException | None = None
    trial_fault: BaseException | None = None
    keep_fault: BaseException | None = None
    prepare_fault: BaseException | None = None
    capacity_fault: BaseException | None = None
    hears: bool = True
    """Whether the recipe is stopped by a cancellation at once."""
    on_trial: Callable[[], Any] = lambda: None
    on_keep: Callable[[], None] = lambda: None

    def check_capacity(self) -> None:
        """See BuildWork."""
        if self.capacity_fault is not None:
            raise self.capacity_fault

    def recipe(self, request: BuildRequest, log: BuildLog, cancellation: Cancellation) -> Template:
        """See BuildWork."""
        self.begun.append(request.build_id)
        assert request.image is not None
        assert request.image.password == SECRET
        log.add("info", "one\ntwo", "1")
        killed = threading.Event()

        def kill() -> None:
            self.killed.append(request.build_id)
            killed.set()

        with cancellation.calling(kill if self.hears else lambda: None):
            while not self.gate.wait(0.005):
                if killed.is_set():
                    raise RuntimeFailedError("the sandbox ended")
        if self.fault is not None:
            raise self.fault
        return Template(template_id=request.template_id, name=request.name, build_id=request.build_id, layers=("a",))

    def trial(self, template: Template, log: BuildLog, cancellation: Cancellation) -> Template:
        """See Trial."""
        log.add("info", "trying")
        self.on_trial()
        cancellation.check()
        if self.trial_fault is not None:
            raise self.trial_fault
        return replace(template, languages=("python",))

    def keep(self, template: Template) -> None:
        """See BuildWork."""
        if self.keep_fault is not None:
            raise self.keep_fault
        self.made[template.build_id] = template
        self.on_keep()

    def drop(self, build_id: str) -> None:
        """See BuildWork."""
        self.made.pop(build_id, None)

    def prepare(self, template: Template) -> None:
        """See BuildWork."""
        if self.prepare_fault is not None:
            raise self.prepare_fault
        self.prepared.append(template.build_id)

    def parts(self) -> BuildWork:
        """As Builds takes it."""
        return BuildWork(
            check_capacity=self.check_capacity,
            recipe=self.recipe,
            trial=self.trial,
            keep=self.keep,
            drop=self.drop,
            prepare=self.prepare,
        )


class Node:
    """Builds on one directory that can be stopped, or die, and start again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.work = Work()
        self.bounds = BuildBounds()
        self.ended: list[EndedBuild] = []
        self.builds = self.start()

    def start(self) -> Builds:
        """Another run of the server."""
        self.builds = Builds(BuildRecords(self.directory), self.work.parts(), self.bounds)
        self.builds.on_ended = self.ended.append
        self.builds.start()
        return self.builds

    def die(self) -> None:
        """What kill -9 does, as far as a test can: what is on disk now is what the next run finds."""
        image = self.directory.with_name("image")
        shutil.copytree(self.directory, image)
        self.builds.on_ended = lambda _ended: None
        self.builds.stop()
        shutil.rmtree(self.directory)
        image.rename(self.directory)

    def report(self, number: int = 1) -> BuildReport:
        """All of a build's report."""
        return self.builds.report(build_id(number), 0, 1000)

    def wait(self, status: BuildStatus, number: int = 1) -> BuildReport:
        """The report once it has this status."""
        return _eventually(lambda: found if (found := self.report(number)).status is status else None)

    def wait_begun(self, *numbers: int) -> None:
        """Until these builds, and no others, have come to their recipe."""
        _eventually(lambda: sorted(self.work.begun) == sorted(map(build_id, numbers)) or None)

    def on_disk(self) -> str:
        """All that the records hold."""
        return "".join(path.read_text() for path in self.directory.rglob("*") if path.is_file())

    def log(self, number: int = 1) -> list[str]:
        """The texts of a build's log."""
        return [entry.message for entry in self.report(number).entries]


def _eventually(look: Callable[[], _T | None]) -> _T:
    until = time.monotonic() + 10
    while (found := look()) is None:
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.005)
    return found


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node whose builds wait for the gate."""
    node = Node(tmp_path / "builds")
    yield node
    node.builds.stop()


def test_a_build_becomes_ready(node: Node) -> None:
    """It waits, is made, tried, recorded and prepared for; then the credentials are gone and everybody is told."""
    node.builds.enqueue(request())
    node.wait_begun(1)
    assert node.report().status is BuildStatus.BUILDING
    assert SECRET in node.on_disk()
    assert (node.directory / build_id(1) / "request.json").stat().st_mode & 0o777 == 0o600
    node.work.gate.set()
    report = node.wait(BuildStatus.READY)
    assert (report.message, report.step) == ("", None)
    assert node.log() == ["one", "two", "trying"]
    assert node.work.made[build_id(1)].languages == ("python",)
    assert node.work.prepared == [build_id(1)]
    assert node.ended == [EndedBuild(build_id=build_id(1), status=BuildStatus.READY)]
    assert SECRET not in node.on_disk()
    assert not (node.directory / build_id(1) / "request.json").exists()


def test_a_known_build_is_not_begun_again(node: Node) -> None:
    """Asking for the same build twice changes nothing, while it runs and after its end."""
    node.work.gate.set()
    node.builds.enqueue(request())
    node.builds.enqueue(request())
    node.wait(BuildStatus.READY)
    node.builds.enqueue(request())
    time.sleep(0.05)
    assert node.work.begun == [build_id(1)]
    assert node.report().status is BuildStatus.READY


def test_so_many_run_and_the_others_wait(node: Node) -> None:
    """At most two run; of those that wait a team with fewer running builds goes first, else the oldest."""
    for number, team in enumerate(["a", "a", "a", "a", "b"], 1):
        node.builds.enqueue(request(number, team))
    node.wait_begun(1, 2)
    assert node.builds.counts() == {"waiting": 3, "building": 2, "ready": 0, "error": 0}
    assert node.builds.cancel(build_id(1))
    node.wait_begun(1, 2, 5)
    node.work.gate.set()
    for number in (2, 3, 4, 5):
        node.wait(BuildStatus.READY, number)
    assert node.builds.counts() == {"waiting": 0, "building": 0, "ready": 4, "error": 1}


def test_builds_of_a_team_keep_their_order(node: Node) -> None:
    """Of one team's builds the one that was asked for first is begun first."""
    node.bounds = BuildBounds(running=1)
    node.start()
    for number in (3, 1, 2):
        node.builds.enqueue(request(number))
    node.work.gate.set()
    for number in (1, 2, 3):
        node.wait(BuildStatus.READY, number)
    assert node.work.begun == [build_id(3), build_id(1), build_id(2)]


def test_the_queue_is_bounded(node: Node) -> None:
    """A node that has too many builds waiting says so, and does not know of the refused one."""
    node.bounds = BuildBounds(waiting=1)
    node.start()
    for number in (1, 2, 3):
        node.builds.enqueue(request(number))
    with pytest.raises(NoCapacityError):
        node.builds.enqueue(request(4))
    with pytest.raises(NotFoundError):
        node.report(4)
    assert not (node.directory / build_id(4)).exists()


@pytest.mark.parametrize(
    ("fault", "message", "step"),
    [
        (BuildError("failed to run command 'x': command failed: exit status 1", step="2"), "failed to run command 'x'", "2"),
        (BuildError("no such image", step="base", hint="look at its name"), "no such image (look at its name)", "base"),
        (TemplateNotFoundError("template 'x' not found"), "template 'x' not found", None),
        (NoCapacityError("the disk is full"), "the disk is full", None),
        (InternalError("/var/lib/secret/path is gone"), "the server failed to run this build", None),
        (KeyError("oops"), "the server failed to run this build", None),
        (MemoryError(), "the server failed to run this build", None),
        (SystemExit(1), "the server failed to run this build", None),
    ],
)
@pytest.mark.parametrize("where", ["fault", "keep_fault"])
def test_a_failure_ends_the_build(node: Node, where: str, fault: BaseException, message: str, step: str | None) -> None:
    """Whatever goes wrong is told, without the server's inner words, and the next build runs."""
    setattr(node.work, where, fault)
    node.work.gate.set()
    node.builds.enqueue(request())
    report = node.wait(BuildStatus.ERROR)
    assert report.message.startswith(message)
    assert report.step == step
    assert "secret/path" not in node.on_disk()
    assert node.log()[-1] == report.message
    assert node.ended[0].message == report.message
    assert node.work.made == {}
    assert SECRET not in node.on_disk()
    setattr(node.work, where, None)
    node.builds.enqueue(request(2))
    node.wait(BuildStatus.READY, 2)


def test_a_failed_trial_is_of_the_last_step(node: Node) -> None:
    """What the start or ready command did wrong is told as of ``finalize``."""
    node.work.trial_fault = BuildError("the ready command did not pass")
    node.work.gate.set()
    node.builds.enqueue(request())
    assert node.wait(BuildStatus.ERROR).step == "finalize"


def test_a_host_without_room_builds_nothing(node: Node) -> None:
    """Capacity is looked at before the first sandbox is made."""
    node.work.capacity_fault = NoCapacityError("the host has 5 MiB of disk left")
    node.builds.enqueue(request())
    report = node.wait(BuildStatus.ERROR)
    assert (report.message, report.step) == ("the host has 5 MiB of disk left", "base")
    assert node.work.begun == []


def test_a_template_is_whole_without_its_preparation(node: Node) -> None:
    """What only makes creations faster is no reason for a build to fail."""
    node.work.prepare_fault = RuntimeFailedError("no zygote")
    node.work.gate.set()
    node.builds.enqueue(request())
    node.wait(BuildStatus.READY)


def test_cancel_a_waiting_build(node: Node) -> None:
    """It ends at once and never begins."""
    for number in (1, 2, 3):
        node.builds.enqueue(request(number))
    assert node.builds.cancel(build_id(3))
    report = node.report(3)
    assert (report.status, report.message) == (BuildStatus.ERROR, "the build was cancelled")
    assert not (node.directory / build_id(3) / "request.json").exists()
    assert not node.builds.cancel(build_id(3))
    node.work.gate.set()
    node.wait(BuildStatus.READY, 2)
    assert build_id(3) not in node.work.begun


def test_cancel_a_running_build(node: Node) -> None:
    """What it runs is killed before the answer; it ends as cancelled, not with the fault that the killing made."""
    node.builds.enqueue(request())
    node.wait_begun(1)
    _eventually(lambda: node.report().total or None)
    assert node.builds.cancel(build_id(1))
    report = node.wait(BuildStatus.ERROR)
    assert report.message == node.log()[-1] == "the build was cancelled"
    assert node.work.killed == [build_id(1)]
    assert [ended.message for ended in node.ended] == ["the build was cancelled"]


def test_cancel_between_two_steps(node: Node) -> None:
    """A cancellation that comes where nothing can be killed counts before the template is recorded."""
    node.work.hears = False
    node.builds.enqueue(request())
    node.wait_begun(1)
    assert node.builds.cancel(build_id(1))
    node.work.gate.set()
    assert node.wait(BuildStatus.ERROR).message == "the build was cancelled"
    assert node.work.made == {}


def test_cancel_during_the_trial(node: Node) -> None:
    """The trial listens too, and the failed step is the last."""
    node.work.gate.set()
    node.work.on_trial = lambda: node.builds.cancel(build_id(1))
    node.builds.enqueue(request())
    report = node.wait(BuildStatus.ERROR)
    assert (report.message, report.step) == ("the build was cancelled", "finalize")
    assert node.work.made == {}


def test_cancel_comes_too_late(node: Node) -> None:
    """A build whose template is recorded is not cancelled, and the caller is told so."""
    answers: list[bool] = []
    node.work.gate.set()
    node.work.on_keep = lambda: answers.append(node.builds.cancel(build_id(1)))
    node.builds.enqueue(request())
    node.wait(BuildStatus.READY)
    assert answers == [False]
    assert not node.builds.cancel(build_id(1))
    assert not node.builds.cancel(build_id(9))


def test_a_build_has_its_time(node: Node) -> None:
    """One that takes too long is ended, and the reason is told."""
    node.bounds = BuildBounds(timeout_s=0.1)
    node.start()
    node.builds.enqueue(request())
    assert node.wait(BuildStatus.ERROR).message == "the build took longer than 0.1 seconds"
    assert node.work.killed == [build_id(1)]


def test_a_stop_puts_builds_back(node: Node) -> None:
    """A clean stop kills what runs without ending the builds; the next start builds them, however often that happens."""
    for number in (1, 2, 3):
        node.builds.enqueue(request(number))
    for _ in range(4):
        _eventually(lambda: len(node.work.begun) >= 2 or None)
        node.builds.stop()
        assert node.work.begun == [build_id(1), build_id(2)] or sorted(node.work.begun) == [build_id(1), build_id(2)]
        assert node.ended == []
        assert SECRET in node.on_disk()
        node.work.begun.clear()
        node.start()
    node.work.gate.set()
    for number in (1, 2, 3):
        node.wait(BuildStatus.READY, number)
    assert any("server stops" in line for line in node.log())
    assert any("started again" in line for line in node.log())
    assert SECRET not in node.on_disk()


def test_nothing_begins_during_a_stop(node: Node) -> None:
    """A build that ends while the server stops makes no room for another."""
    node.bounds = BuildBounds(running=1)
    node.start()
    for number in (1, 2):
        node.builds.enqueue(request(number))
    node.wait_begun(1)
    node.builds.stop()
    assert node.work.begun == [build_id(1)]
    assert node.builds.counts()["building"] == 0


def test_a_crash_is_survived(node: Node) -> None:
    """Builds that a crash cut off are begun anew in their order; their logs go on where they were."""
    for number in (1, 2, 3):
        node.builds.enqueue(request(number))
    node.wait_begun(1, 2)
    _eventually(lambda: (node.report().total == 2 and node.report(2).total == 2) or None)
    node.die()
    node.work.begun.clear()
    node.work.gate.set()
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
        _eventually(lambda: node.report().status is BuildStatus.BUILDING or None)
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
    node.work.begun.clear()
    node.work.made[build_id(1)] = Template(template_id="t", name="n", build_id=build_id(1), layers=())
    node.start()
    assert SECRET not in node.on_disk()
    if flag == "is_cancelled":
        assert node.report().message == "the build was cancelled"
    else:
        assert node.work.made == {}
        assert not (node.directory / build_id(1)).exists()
        with pytest.raises(NotFoundError):
            node.report()
    assert node.work.begun == []


def test_a_crash_between_the_two_writes(node: Node) -> None:
    """A request without a state is a build; a directory without either, or with garbage, is removed."""
    node.builds.enqueue(request())
    node.wait_begun(1)
    node.die()
    (node.directory / build_id(1) / "state.json").unlink()
    (node.directory / build_id(2)).mkdir()
    (node.directory / build_id(3)).mkdir()
    (node.directory / build_id(3) / "state.json").write_text('{"status": "sleeping"}')
    node.work.gate.set()
    node.start()
    node.wait(BuildStatus.READY)
    assert [path.name for path in node.directory.iterdir()] == [build_id(1)]


def test_drop_in_every_state(node: Node) -> None:
    """Of a dropped build nothing is left: not when it waited, ran, had ended, or was never known; and it ends without a word."""
    node.work.gate.set()
    node.builds.enqueue(request(1))
    node.wait(BuildStatus.READY)
    node.work.gate.clear()
    node.ended.clear()
    for number in (2, 3, 4):
        node.builds.enqueue(request(number))
    node.wait_begun(1, 2, 3)
    node.work.made[build_id(9)] = node.work.made[build_id(1)]
    for number in (1, 2, 4, 9, 8):
        node.builds.drop(build_id(number))
        node.builds.drop(build_id(number))
        with pytest.raises(NotFoundError):
            node.report(number)
    _eventually(lambda: [path.name for path in node.directory.iterdir()] == [build_id(3)] or None)
    assert node.work.made == {}
    assert node.ended == []
    assert node.work.killed == [build_id(2)]


def test_drop_during_the_last_moment(node: Node) -> None:
    """A drop that comes while the template is being recorded leaves nothing of it."""
    node.work.gate.set()
    node.work.on_keep = lambda: node.builds.drop(build_id(1))
    node.builds.enqueue(request())
    _eventually(lambda: not (node.directory / build_id(1)).exists() or None)
    _eventually(lambda: node.builds.counts()["building"] == 0 or None)
    assert node.work.made == {}


def test_reports_outlive_a_restart_and_then_their_time(node: Node) -> None:
    """An ended build's report is the same after a restart, and is forgotten when it is old; the template stays."""
    node.work.gate.set()
    node.builds.enqueue(request())
    before = node.wait(BuildStatus.READY)
    node.start()
    assert node.report() == before
    node.bounds = BuildBounds(kept_s=0.0)
    node.start()
    with pytest.raises(NotFoundError):
        node.report()
    assert list(node.directory.iterdir()) == []
    assert list(node.work.made) == [build_id(1)]


@pytest.mark.parametrize("bounds", [BuildBounds(kept=2), BuildBounds(kept_log_bytes=1)])
def test_ended_builds_are_bounded(node: Node, bounds: BuildBounds) -> None:
    """Of many ended builds, or of large logs, the oldest go first."""
    node.work.gate.set()
    node.bounds = bounds
    node.start()
    for number in range(1, 5):
        node.builds.enqueue(request(number))
        _eventually(lambda: len(node.ended) == number or None)  # noqa: B023 - called at once
    _eventually(lambda: len(list(node.directory.iterdir())) == (2 if bounds.kept == 2 else 0) or None)


def test_a_full_disk_ends_no_build_twice(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build whose end could not be written has ended nevertheless, and its end is written when there is room."""
    node.builds.enqueue(request())
    node.wait_begun(1)
    write = BuildRecords.write

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(BuildRecords, "write", full)
    with pytest.raises(NoCapacityError, match="No space left"):
        node.builds.enqueue(request(2))
    node.work.gate.set()
    node.wait(BuildStatus.READY)
    monkeypatch.setattr(BuildRecords, "write", write)
    node.builds.tend()
    node.start()
    assert node.report().status is BuildStatus.READY
    assert node.work.begun == [build_id(1)]


def test_a_log_can_be_followed(node: Node) -> None:
    """Whoever asks for what comes after the last entry gets every entry once, over a restart of the server as well."""
    node.builds.enqueue(request())
    node.wait_begun(1)
    followed: list[str] = []

    def follow() -> BuildStatus:
        report = node.builds.report(build_id(1), len(followed), 1)
        followed.extend(entry.message for entry in report.entries)
        return report.status

    _eventually(lambda: (follow() and len(followed) == 2) or None)
    node.builds.stop()
    node.work.gate.set()
    node.start()
    _eventually(lambda: follow().is_final or None)
    while len(followed) < node.report().total:
        follow()
    assert followed == node.log()
    assert len(followed) == 2 + 1 + 1 + 3
