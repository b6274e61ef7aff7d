"""Records how many sandboxes each team runs and creates, for ``GET /teams/{id}/metrics``.

A sample a minute is stored for each team that had a sandbox in it; the present minute is read from memory. Samples are kept for a week.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from cloister.control.registry import Registry
from cloister.errors import InvalidRequestError, StorageFullError, StoreError
from cloister.model.team_metrics import TeamPoint, TeamSample
from cloister.store.teams import TeamStore

__all__ = ["KEPT_S", "TeamMetrics"]

_log = structlog.get_logger("cloister.control")
_INTERVAL_S = 60.0
KEPT_S = 7 * 86_400.0
_MOST_POINTS = 500
_SHORTEST_S = 1.0


class TeamMetrics:
    """Call :meth:`run` in a task of its own."""

    def __init__(self, registry: Registry, store: TeamStore, clock: Callable[[], float] = time.time) -> None:
        self._registry = registry
        self._store = store
        self._clock = clock

    async def run(self) -> None:
        """Store samples until the task is cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            try:
                await self.sample()
            except (StoreError, StorageFullError):
                _log.exception("team.samples_lost")

    async def sample(self) -> None:
        """Store what the teams did since the last sample, and forget samples that are too old."""
        now = self._clock()
        samples = self._registry.take_sample(now)
        if not self._registry.is_leader:
            return  # the leader has the same ones
        await self._store.add_samples(samples)
        await self._store.prune_samples(now - KEPT_S)

    async def points(self, team_id: str, start: float | None, end: float | None) -> Sequence[TeamPoint]:
        """The team's use from ``start`` to ``end`` (epoch seconds), oldest first, in at most 500 points; by default of the last week.

        Raises: InvalidRequestError: the end is before the start.
        """
        samples, start, end = await self._samples(team_id, start, end)
        step = max(_INTERVAL_S, (end - start) / _MOST_POINTS)
        groups: dict[int, list[TeamSample]] = {}
        for sample in samples:
            groups.setdefault(int((sample.at - start) // step), []).append(sample)
        return [_point(group) for group in groups.values()]

    async def highest(self, team_id: str, start: float | None, end: float | None) -> tuple[TeamPoint | None, TeamPoint | None]:
        """The point with most sandboxes at once, and that with most creations a second; None: there is no sample. Raises: as above."""
        samples, _, _ = await self._samples(team_id, start, end)
        points = [_point([sample]) for sample in samples]
        return max(points, key=lambda one: one.peak, default=None), max(points, key=lambda one: one.starts_per_s, default=None)

    async def _samples(self, team_id: str, start: float | None, end: float | None) -> tuple[list[TeamSample], float, float]:
        now = self._clock()
        last = now if end is None else end
        first = last - KEPT_S if start is None else start
        if last < first:
            raise InvalidRequestError("the end time is before the start time", hint="give both in epoch seconds")
        samples = list(await self._store.list_samples(team_id, first, last))
        if first <= now and last >= now - _SHORTEST_S:
            present = self._registry.peek_sample(team_id, now)
            samples += [present] if present.peak or present.starts else []
        return samples, first, last


def _point(samples: Sequence[TeamSample]) -> TeamPoint:
    starts = max(one.starts for one in samples)
    return TeamPoint(at=samples[-1].at, peak=max(one.peak for one in samples), starts_per_s=starts / _INTERVAL_S)
