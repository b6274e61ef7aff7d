"""The queue of builds with a fake recipe: each build ends once, with the truth, whatever happens to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.errors import BuildError, InternalError, NoCapacityError, NotFoundError, RuntimeFailedError, TemplateNotFoundError
from cloister.model.build import BuildStatus, EndedBuild
from cloister.node.builds.queue import QueueLimits
from framework.fake_builds import SECRET, Node, build_id, request
from framework.waiting import eventually


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
    (node.directory / build_id(1) / ".request.json.0a1b2c3d").write_text(SECRET)  # as a crash would leave it
    node.stages.gate.set()
    report = node.wait(BuildStatus.READY)
    assert (report.message, report.step) == ("", None)
    assert node.log() == ["one", "two", "trying"]
    assert node.stages.made[build_id(1)].languages == ("python",)
    assert node.stages.prepared == [build_id(1)]
    assert node.ended == [EndedBuild(build_id=build_id(1), status=BuildStatus.READY)]
    assert SECRET not in node.on_disk()
    assert not (node.directory / build_id(1) / "request.json").exists()


def test_a_known_build_is_not_begun_again(node: Node) -> None:
    """Asking for the same build twice changes nothing, while it runs and after its end."""
    node.stages.gate.set()
    node.builds.enqueue(request())
    node.builds.enqueue(request())
    node.wait(BuildStatus.READY)
    node.builds.enqueue(request())
    time.sleep(0.05)
    assert node.stages.begun == [build_id(1)]
    assert node.report().status is BuildStatus.READY


def test_so_many_run_and_the_others_wait(node: Node) -> None:
    """At most two of a team run; of those that wait a team with fewer running builds goes first, else the oldest."""
    for number, team in enumerate(["a", "a", "a", "a", "b"], 1):
        node.builds.enqueue(request(number, team))
    node.wait_begun(1, 2, 5)
    assert node.builds.counts() == {"waiting": 2, "building": 3, "ready": 0, "error": 0}
    assert node.builds.cancel(build_id(1))
    eventually(lambda: node.builds.counts()["building"] == 2)
    node.wait_begun(1, 2, 5)
    node.stages.gate.set()
    for number in (2, 3, 4, 5):
        node.wait(BuildStatus.READY, number)
    assert node.builds.counts() == {"waiting": 0, "building": 0, "ready": 4, "error": 1}


def test_builds_of_a_team_keep_their_order(node: Node) -> None:
    """Of one team's builds the one that was asked for first is begun first."""
    node.limits = QueueLimits(running=1)
    node.start()
    for number in (3, 1, 2):
        node.builds.enqueue(request(number))
    node.stages.gate.set()
    for number in (1, 2, 3):
        node.wait(BuildStatus.READY, number)
    assert node.stages.begun == [build_id(3), build_id(1), build_id(2)]


def test_the_queue_is_bounded(node: Node) -> None:
    """A node that has too many builds waiting says so, and does not know of the refused one."""
    node.limits = QueueLimits(waiting=1)
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
@pytest.mark.parametrize("where", ["fault", "record_fault"])
def test_a_failure_ends_the_build(node: Node, where: str, fault: BaseException, message: str, step: str | None) -> None:
    """Whatever goes wrong is told, without the server's inner words, and the next build runs."""
    setattr(node.stages, where, fault)
    node.stages.gate.set()
    node.builds.enqueue(request())
    report = node.wait(BuildStatus.ERROR)
    assert report.message.startswith(message)
    assert report.step == step
    assert "secret/path" not in node.on_disk()
    assert node.log()[-1] == report.message
    assert node.ended[0].message == report.message
    assert node.stages.made == {}
    assert SECRET not in node.on_disk()
    setattr(node.stages, where, None)
    node.builds.enqueue(request(2))
    node.wait(BuildStatus.READY, 2)


def test_a_failed_trial_is_of_the_last_step(node: Node) -> None:
    """A fault of the start or ready command belongs to the step ``finalize``."""
    node.stages.trial_fault = BuildError("the ready command did not pass")
    node.stages.gate.set()
    node.builds.enqueue(request())
    assert node.wait(BuildStatus.ERROR).step == "finalize"


def test_a_host_without_room_builds_nothing(node: Node) -> None:
    """Capacity is looked at before the first sandbox is made."""
    node.stages.capacity_fault = NoCapacityError("the host has 5 MiB of disk left")
    node.builds.enqueue(request())
    report = node.wait(BuildStatus.ERROR)
    assert (report.message, report.step) == ("the host has 5 MiB of disk left", "base")
    assert node.stages.begun == []


def test_a_template_is_whole_without_its_preparation(node: Node) -> None:
    """A failed preparation only makes creations slower, so the build is ready."""
    node.stages.prepare_fault = RuntimeFailedError("no zygote")
    node.stages.gate.set()
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
    node.stages.gate.set()
    node.wait(BuildStatus.READY, 2)
    assert build_id(3) not in node.stages.begun


def test_cancel_a_running_build(node: Node) -> None:
    """Its step is killed before the answer. It ends as cancelled, not with the fault that the kill caused."""
    node.builds.enqueue(request())
    node.wait_begun(1)
    eventually(lambda: node.report().total)
    assert node.builds.cancel(build_id(1))
    report = node.wait(BuildStatus.ERROR)
    assert report.message == node.log()[-1] == "the build was cancelled"
    assert node.stages.killed == [build_id(1)]
    assert [ended.message for ended in node.ended] == ["the build was cancelled"]


def test_cancel_between_two_steps(node: Node) -> None:
    """A cancellation that comes where nothing can be killed counts before the template is recorded."""
    node.stages.hears = False
    node.builds.enqueue(request())
    node.wait_begun(1)
    assert node.builds.cancel(build_id(1))
    node.stages.gate.set()
    assert node.wait(BuildStatus.ERROR).message == "the build was cancelled"
    assert node.stages.made == {}


def test_cancel_during_the_trial(node: Node) -> None:
    """The trial listens too, and the failed step is the last."""
    node.stages.gate.set()
    node.stages.on_trial = lambda: node.builds.cancel(build_id(1))
    node.builds.enqueue(request())
    report = node.wait(BuildStatus.ERROR)
    assert (report.message, report.step) == ("the build was cancelled", "finalize")
    assert node.stages.made == {}


def test_cancel_comes_too_late(node: Node) -> None:
    """A build whose template is recorded is not cancelled, and the caller is told so."""
    answers: list[bool] = []
    node.stages.gate.set()
    node.stages.on_record = lambda: answers.append(node.builds.cancel(build_id(1)))
    node.builds.enqueue(request())
    node.wait(BuildStatus.READY)
    assert answers == [False]
    assert not node.builds.cancel(build_id(1))
    assert not node.builds.cancel(build_id(9))


def test_a_build_has_its_time(node: Node) -> None:
    """One that takes too long is ended, and the reason is told."""
    node.limits = QueueLimits(timeout_s=0.1)
    node.start()
    node.builds.enqueue(request())
    assert node.wait(BuildStatus.ERROR).message == "the build took longer than 0.1 seconds"
    assert node.stages.killed == [build_id(1)]


def test_drop_in_every_state(node: Node) -> None:
    """Of a dropped build nothing is left: not when it waited, ran, had ended, or was never known; and it ends without a word."""
    node.stages.gate.set()
    node.builds.enqueue(request(1))
    node.wait(BuildStatus.READY)
    node.stages.gate.clear()
    node.ended.clear()
    for number in (2, 3, 4):
        node.builds.enqueue(request(number))
    node.wait_begun(1, 2, 3)
    node.stages.made[build_id(9)] = node.stages.made[build_id(1)]
    for number in (1, 2, 4, 9, 8):
        node.builds.drop(build_id(number))
        node.builds.drop(build_id(number))
        with pytest.raises(NotFoundError):
            node.report(number)
    eventually(lambda: [path.name for path in node.directory.iterdir()] == [build_id(3)])
    assert node.stages.made == {}
    assert node.ended == []
    assert node.stages.killed == [build_id(2)]


def test_drop_during_the_last_moment(node: Node) -> None:
    """A drop that comes while the template is being recorded leaves nothing of it."""
    node.stages.gate.set()
    node.stages.on_record = lambda: node.builds.drop(build_id(1))
    node.builds.enqueue(request())
    eventually(lambda: not (node.directory / build_id(1)).exists())
    eventually(lambda: node.builds.counts()["building"] == 0)
    assert node.stages.made == {}


@pytest.mark.parametrize("bounds", [QueueLimits(kept=2), QueueLimits(kept_log_bytes=1)])
def test_ended_builds_are_bounded(node: Node, bounds: QueueLimits) -> None:
    """Of many ended builds, or of large logs, the oldest go first."""
    node.stages.gate.set()
    node.limits = bounds
    node.start()
    for number in range(1, 5):
        node.builds.enqueue(request(number))
        eventually(lambda: len(node.ended) == number)  # noqa: B023 - called at once
    eventually(lambda: len(list(node.directory.iterdir())) == (2 if bounds.kept == 2 else 0))
