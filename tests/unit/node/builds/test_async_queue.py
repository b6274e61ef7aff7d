"""Builds behind the node protocol: limits, the wait for the resolver, and ends that reach the peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cloister.errors import InvalidRequestError
from cloister.model.build import BuildStatus, EndedBuild
from cloister.node.builds import async_queue
from cloister.node.builds.async_queue import AsyncBuildQueue
from cloister.node.builds.queue import BuildQueue, QueueLimits
from cloister.node.builds.records import BuildRecords
from cloister.node.limits import NodeLimits
from cloister.nodewire.requests import BuildRef, ReportBuild
from framework.fake_builds import FakeBuildStages, build_id, request
from framework.waiting import turns


@dataclass
class Harness:
    """AsyncBuildQueue over fake stages."""

    directory: Path
    stages: FakeBuildStages = field(default_factory=FakeBuildStages)
    resolver: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Queue[EndedBuild] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        builds = BuildQueue(BuildRecords(self.directory), self.stages, QueueLimits())
        self.building = AsyncBuildQueue(builds, NodeLimits(cpu_count=2, mem_mib=1000, disk_mib=1000), self)

    def build_ended(self, ended: EndedBuild) -> None:
        """See BuildEvents."""
        self.ended.put_nowait(ended)

    async def status(self) -> BuildStatus:
        """Of the first build."""
        return (await self.building.report_build(ReportBuild(build_id(1), 0, 0))).status


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """Loaded, and beginning when the resolver is there."""
    harness = Harness(tmp_path / "builds")
    await harness.building.load()
    beginning = asyncio.create_task(harness.building.begin_after(harness.resolver))
    yield harness
    beginning.cancel()
    await harness.building.stop()


async def test_nothing_is_built_before_names_can_be_looked_up(harness: Harness) -> None:
    """A build that came early waits for the resolver, is known meanwhile, and its end is told on the loop."""
    harness.stages.gate.set()
    await harness.building.start_build(request())
    await turns()
    assert await harness.status() is BuildStatus.WAITING
    assert harness.building.counts()["waiting"] == 1
    harness.resolver.set()
    async with asyncio.timeout(5):
        assert await harness.ended.get() == EndedBuild(build_id=build_id(1), status=BuildStatus.READY)
    assert await harness.status() is BuildStatus.READY


async def test_a_resolver_that_does_not_come_holds_builds_up_for_a_while(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without its api process builds after some time: a build may need no names."""
    monkeypatch.setattr(async_queue, "_MAX_WAIT_S", 0.05)
    harness.stages.gate.set()
    beginning = asyncio.create_task(harness.building.begin_after(harness.resolver))
    await harness.building.start_build(request())
    async with asyncio.timeout(5):
        await harness.ended.get()
    beginning.cancel()


async def test_a_cancelled_build_is_told(harness: Harness) -> None:
    """Its end reaches the loop though the canceller and the build are threads; then it can be dropped."""
    harness.resolver.set()
    await harness.building.start_build(request())
    async with asyncio.timeout(5):
        while not harness.stages.begun:  # noqa: ASYNC110 - another thread's doing
            await asyncio.sleep(0.01)
        assert await harness.building.cancel_build(BuildRef(build_id(1)))
        assert (await harness.ended.get()).message == "the build was cancelled"
        await harness.building.drop_build(BuildRef(build_id(1)))


async def test_a_build_beyond_the_host_is_refused(harness: Harness) -> None:
    """It is not even queued."""
    with pytest.raises(InvalidRequestError, match="processors"):
        await harness.building.start_build(replace(request(), cpu_count=64))
    assert harness.building.counts()["waiting"] == 0
