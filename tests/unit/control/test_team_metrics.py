"""A team's use over time: peaks, creations, ranges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from cloister.control import team_metrics as module
from cloister.control.registry import Registry
from cloister.control.team_metrics import TeamMetrics
from cloister.errors import InvalidRequestError, StorageFullError
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, Sandbox, SandboxRecord, SandboxState
from cloister.model.team import Team
from cloister.model.team_metrics import TeamSample
from cloister.store.sqlite import SqliteStore
from cloister.store.teams import TeamStore
from framework.waiting import eventually_async

NOW = 1_000_000.0
ROW = Sandbox(
    sandbox_id="",
    team_id="t",
    template_id="tpl",
    template="base",
    state=SandboxState.CREATING,
    started_at=NOW,
    end_at=4e9,
    cpu_count=0.1,
    mem_mib=10,
    disk_mib=20,
    metadata={},
    access_token=None,
)


class Plane:
    """A registry with a clock of its own, and the metrics of it."""

    def __init__(self, store: SqliteStore) -> None:
        self.now = NOW
        self.registry = Registry(store, retention_s=10)
        self.metrics = TeamMetrics(self.registry, store.teams, clock=lambda: self.now)

    async def start(self, number: int) -> None:
        """A sandbox runs."""
        row = replace(ROW, sandbox_id=f"{number:020}")
        await self.registry.add(row)
        record = SandboxRecord(
            sandbox_id=row.sandbox_id, template="base", state=SandboxState.RUNNING, started_at=NOW, end_at=4e9, limits=Limits(), runtime="x"
        )
        await self.registry.set_running(record, "node_1")


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    """With one team."""
    store = await SqliteStore.open(tmp_path / "x.db")
    await store.teams.add_team(Team(team_id="t", name="t", created_at=0.0))
    plane = Plane(store)
    yield plane
    await plane.registry.close()
    await store.close()


async def test_a_minute_has_its_peak_and_its_creations(plane: Plane) -> None:
    """A sandbox that came and went between two samples is in the second; the present minute is there at once."""
    assert await plane.metrics.points("t", None, None) == []
    assert await plane.metrics.highest("t", None, None) == (None, None)
    for number in range(3):
        await plane.start(number)
    plane.registry.end(f"{0:020}", EndReason.KILLED)
    (point,) = await plane.metrics.points("t", None, None)
    assert (point.peak, point.starts_per_s) == (3, 3 / 60)
    plane.now += 60
    await plane.metrics.sample()
    plane.now += 60
    await plane.metrics.sample()
    plane.now += 1
    points = await plane.metrics.points("t", NOW, plane.now)
    assert [(point.at - NOW, point.peak, point.starts_per_s) for point in points] == [(60, 3, 3 / 60), (121, 2, 0)]
    most, fastest = await plane.metrics.highest("t", NOW + 61, plane.now)
    assert most is not None
    assert fastest is not None
    assert (most.peak, fastest.starts_per_s) == (2, 0)
    assert await plane.metrics.points("other", None, None) == []


async def test_samples_end_after_a_week_and_ranges_are_checked(plane: Plane) -> None:
    """A long range has few points, and an end before the start is an error."""
    await plane.start(1)
    for _ in range(1200):
        plane.now += 60
        await plane.metrics.sample()
    assert len(await plane.metrics.points("t", None, None)) <= 500
    assert len(await plane.metrics.points("t", plane.now - 600, plane.now)) == 11
    with pytest.raises(InvalidRequestError, match="before the start"):
        await plane.metrics.points("t", plane.now, plane.now - 1)
    plane.registry.end(f"{1:020}", EndReason.KILLED)
    await plane.metrics.sample()
    plane.now += 8 * 86_400
    await plane.metrics.sample()
    assert await plane.metrics.points("t", 0, plane.now) == []


async def test_use_returns_to_zero(plane: Plane) -> None:
    """Sums of fractions of processors leave nothing behind."""
    for number in range(10):
        await plane.start(number)
    assert plane.registry.use_of("t").cpu_count == 1.0
    for number in range(10):
        plane.registry.end(f"{number:020}", EndReason.KILLED)
    assert plane.registry.use_of("t") == type(plane.registry.use_of("t"))()


class FullDisk:
    """A store of samples whose disk is full at first."""

    def __init__(self) -> None:
        self.attempts = 0

    async def add_samples(self, _samples: Sequence[TeamSample]) -> None:
        """Add none."""
        self.attempts += 1
        if self.attempts == 1:
            raise StorageFullError("the server's disk is full")

    async def prune_samples(self, _before: float) -> None:
        """There are none."""


async def test_samples_go_on_after_a_full_disk(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples of that time are lost, and later ones are stored."""
    monkeypatch.setattr(module, "_INTERVAL_S", 0.001)
    disk = FullDisk()
    running = asyncio.create_task(TeamMetrics(plane.registry, cast("TeamStore", disk)).run())
    await eventually_async(lambda: disk.attempts > 2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
