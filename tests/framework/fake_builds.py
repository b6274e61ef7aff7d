"""The node's queue of builds over fake stages: builds wait until a test lets them go on, and the server can stop or die."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cloister.errors import RuntimeFailedError
from cloister.model.build import BuildReport, BuildRequest, BuildStatus, EndedBuild, ImageSource
from cloister.model.template import Template
from cloister.node.builds.queue import BuildQueue, QueueLimits
from cloister.node.builds.records import BuildRecords
from cloister.node.builds.stages import BuildStages
from cloister.template.interfaces import BuildLog, Cancellation
from framework.waiting import eventually

__all__ = ["SECRET", "FakeBuildStages", "Node", "build_id", "request"]

SECRET = "hunter2"


def build_id(number: int) -> str:
    """An id."""
    return f"00000000-0000-4000-8000-{number:012d}"


def request(number: int = 1, team: str = "team") -> BuildRequest:
    """A build of an image behind a password."""
    image = ImageSource(reference="private/image", username="me", password=SECRET)
    return BuildRequest(build_id=build_id(number), template_id=f"t{number}", team_id=team, name="A", image=image)


@dataclass
class FakeBuildStages(BuildStages):
    """Build stages without sandboxes. ``make_layers`` waits for ``gate`` as a step does, until its sandbox is killed."""

    gate: threading.Event = field(default_factory=threading.Event)
    begun: list[str] = field(default_factory=list)
    made: dict[str, Template] = field(default_factory=dict)
    prepared: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    fault: BaseException | None = None
    trial_fault: BaseException | None = None
    record_fault: BaseException | None = None
    prepare_fault: BaseException | None = None
    capacity_fault: BaseException | None = None
    held: list[tuple[str, ...]] = field(default_factory=list)
    hears: bool = True
    """Whether a cancellation stops ``make_layers`` at once."""
    on_trial: Callable[[], Any] = lambda: None
    on_record: Callable[[], None] = lambda: None

    def check_capacity(self) -> None:
        """See BuildStages."""
        if self.capacity_fault is not None:
            raise self.capacity_fault

    def make_layers(self, request: BuildRequest, log: BuildLog, cancellation: Cancellation) -> Template:
        """See BuildStages."""
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

    @contextlib.contextmanager
    def hold_layers(self, layers: tuple[str, ...]) -> Iterator[None]:
        """See BuildStages."""
        self.held.append(layers)
        yield
        self.held.remove(layers)

    def try_out(self, template: Template, log: BuildLog, cancellation: Cancellation, *, force: bool) -> Template:
        """See BuildStages."""
        log.add("info", "trying")
        self.on_trial()
        cancellation.check()
        if self.trial_fault is not None:
            raise self.trial_fault
        return replace(template, languages=("python",))

    def record(self, template: Template) -> None:
        """See BuildStages."""
        if self.record_fault is not None:
            raise self.record_fault
        assert template.layers in self.held
        self.made[template.build_id] = template
        self.on_record()

    def discard(self, build_id: str) -> None:
        """See BuildStages."""
        self.made.pop(build_id, None)

    def prepare(self, template: Template, cancellation: Cancellation) -> None:
        """See BuildStages."""
        if self.prepare_fault is not None:
            raise self.prepare_fault
        self.prepared.append(template.build_id)


class Node:
    """Builds on one directory that can be stopped, or die, and start again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stages = FakeBuildStages()
        self.limits = QueueLimits()
        self.ended: list[EndedBuild] = []
        self.builds = self.start()

    def start(self) -> BuildQueue:
        """Another run of the server."""
        self.builds = BuildQueue(BuildRecords(self.directory), self.stages, self.limits)
        self.builds.on_ended = self.ended.append
        self.builds.load()
        self.builds.begin()
        return self.builds

    def die(self) -> None:
        """Die as by kill -9, as far as a test can: the next run finds the files as they are on disk now."""
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
        return eventually(lambda: found if (found := self.report(number)).status is status else None)

    def wait_begun(self, *numbers: int) -> None:
        """Until these builds, and no others, have begun to make their layers."""
        eventually(lambda: sorted(self.stages.begun) == sorted(map(build_id, numbers)))

    def on_disk(self) -> str:
        """All that the records hold."""
        return "".join(path.read_text() for path in self.directory.rglob("*") if path.is_file())

    def log(self, number: int = 1) -> list[str]:
        """The texts of a build's log."""
        return [entry.message for entry in self.report(number).entries]
