"""Durations counted by bucket: the data of a histogram, which travels from the supervisor to the api process as it is.

Adding one costs well below a microsecond and allocates nothing. No I/O, no clock, no lock: one thread adds.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

__all__ = ["CREATION_BOUNDS_S", "REQUEST_BOUNDS_S", "DurationCounts", "Durations"]

CREATION_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""From a sandbox made ahead to one whose start command takes a minute."""
REQUEST_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class DurationCounts:
    """How many durations were in each bucket."""

    bounds_s: tuple[float, ...]
    """The upper bounds of the buckets, which include them, in ascending order."""
    counts: tuple[int, ...]
    """One for each bound, then the number of those above the last bound. Not cumulative."""
    sum_s: float


class Durations:
    """Counts durations; one writer."""

    __slots__ = ("_bounds_s", "_counts", "_sum_s")

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self._bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds_s, seconds)] += 1
        self._sum_s += seconds

    def counts(self) -> DurationCounts:
        """The counts now."""
        return DurationCounts(self._bounds_s, tuple(self._counts), self._sum_s)
