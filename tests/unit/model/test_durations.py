"""Durations by bucket."""

from __future__ import annotations

from cloister.model.durations import Durations


def test_a_bound_is_in_its_bucket() -> None:
    """A duration counts in the first bucket whose bound is not below it; the last bucket has no bound."""
    times = Durations((0.1, 1.0))
    for seconds in (0.0, 0.1, 0.10001, 1.0, 5.0):
        times.add(seconds)
    counts = times.counts()
    assert (counts.bounds_s, counts.counts) == ((0.1, 1.0), (2, 2, 1))
    assert round(counts.sum_s, 5) == 6.20001
