"""Builds behind the node protocol: limits, the wait for the resolver, and ends that reach the peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cloister.errors import InvalidRequestError
from cloister.model.build import BuildStatus, EndedBuild
from cloister.node import building as building_module
from cloister.node.build_records import BuildRecords
from cloister.node.building import Building
from cloister.node.builds import BuildBounds, Builds
from cloister.node.ceiling import Ceiling
from framework.fake_builds import Work, build_id, request


@dataclass
class Harness:
    """Building over a fake recipe."""

    directory: Path
    work: Work = field(default_factory=Work)
    resolver: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Queue[EndedBuild] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        builds = Builds(BuildRecords(self.directory), self.work.parts(), BuildBounds())
        self.building = Building(builds, Ceiling(cpu_count=2, mem_mib=1000, disk_mib=1000))
        self.building.on_ended = self.ended.put

    async def status(self) -> BuildStatus:
        """Of the first build."""
        return (await self.building.report_build(build_id(1), 0, 0)).status


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
    harness.work.gate.set()
    await harness.building.start_build(request())
    await asyncio.sleep(0.05)
    assert await harness.status() is BuildStatus.WAITING
    assert harness.building.counts()["waiting"] == 1
    harness.resolver.set()
    async with asyncio.timeout(5):
        assert await harness.ended.get() == EndedBuild(build_id=build_id(1), status=BuildStatus.READY)
    assert await harness.status() is BuildStatus.READY


async def test_a_resolver_that_does_not_come_holds_builds_up_for_a_while(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without its api process builds after some time: a build may need no names."""
    monkeypatch.setattr(building_module, "_PATIENCE_S", 0.05)
    harness.work.gate.set()
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
        while not harness.work.begun:  # noqa: ASYNC110 - another thread's doing
            await asyncio.sleep(0.01)
        assert await harness.building.cancel_build(build_id(1))
        assert (await harness.ended.get()).message == "the build was cancelled"
        await harness.building.drop_build(build_id(1))


async def test_a_build_beyond_the_host_is_refused(harness: Harness) -> None:
    """It is not even queued."""
    with pytest.raises(InvalidRequestError, match="processors"):
        await harness.building.start_build(replace(request(), cpu_count=64))
    assert harness.building.counts()["waiting"] == 0
