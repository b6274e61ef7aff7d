"""The node's queue of builds over a fake recipe: builds wait until a test lets them go on, and the server can stop or die."""

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
from cloister.node.build_records import BuildRecords
from cloister.node.builds import BuildBounds, Builds, BuildWork
from cloister.template.interfaces import BuildLog, Cancellation
from framework.waiting import eventually

__all__ = ["SECRET", "Node", "Work", "build_id", "request"]

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
    held: list[tuple[str, ...]] = field(default_factory=list)
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

    @contextlib.contextmanager
    def hold(self, layers: tuple[str, ...]) -> Iterator[None]:
        """See BuildWork."""
        self.held.append(layers)
        yield
        self.held.remove(layers)

    def trial(self, template: Template, log: BuildLog, cancellation: Cancellation, *, force: bool) -> Template:
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
        assert template.layers in self.held
        self.made[template.build_id] = template
        self.on_keep()

    def drop(self, build_id: str) -> None:
        """See BuildWork."""
        self.made.pop(build_id, None)

    def prepare(self, template: Template, _cancellation: Cancellation) -> None:
        """See BuildWork."""
        if self.prepare_fault is not None:
            raise self.prepare_fault
        self.prepared.append(template.build_id)

    def parts(self) -> BuildWork:
        """As Builds takes it."""
        return BuildWork(
            check_capacity=self.check_capacity,
            recipe=self.recipe,
            hold=self.hold,
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
        self.builds.load()
        self.builds.begin()
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
        return eventually(lambda: found if (found := self.report(number)).status is status else None)

    def wait_begun(self, *numbers: int) -> None:
        """Until these builds, and no others, have come to their recipe."""
        eventually(lambda: sorted(self.work.begun) == sorted(map(build_id, numbers)))

    def on_disk(self) -> str:
        """All that the records hold."""
        return "".join(path.read_text() for path in self.directory.rglob("*") if path.is_file())

    def log(self, number: int = 1) -> list[str]:
        """The texts of a build's log."""
        return [entry.message for entry in self.report(number).entries]
