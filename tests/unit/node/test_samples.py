"""The ring of samples: bounded, whole, exact."""

from __future__ import annotations

import itertools

import pytest

from cloister.model.node import SandboxUsage
from cloister.node.samples import SampleRing

START = 1_000_000.0


def usage(cpu_used_s: float = 0.0, mem_used_bytes: int = 0) -> SandboxUsage:
    """Some usage."""
    return SandboxUsage(
        cpu_used_s=cpu_used_s,
        mem_used_bytes=mem_used_bytes,
        mem_cache_bytes=1,
        mem_limit_bytes=1 << 30,
        oom_kills=0,
        pids=1,
        pids_refused=0,
        disk_used_bytes=2**52 + 1,
        disk_total_bytes=2**53,
        inodes_free=1,
    )


def filled(count: int, size: int = 100) -> SampleRing:
    """A ring of samples five seconds apart, by a sandbox that uses a quarter of a processor."""
    ring = SampleRing(START, size)
    for number in range(1, count + 1):
        ring.add(START + 5 * number, usage(1.25 * number, number))
    return ring


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 1000, 17_280, 100_000])
def test_ring_is_bounded_and_covers_the_whole_life(count: int) -> None:
    """However long the life, there are at most so many samples, the first near its beginning and the last the newest."""
    samples = filled(count).samples()
    assert len(samples) == min(count, len(samples)) <= 101
    if count:
        assert samples[-1].at == START + 5 * count
        assert samples[0].at == START + 5
        gaps = [after.at - before.at for before, after in itertools.pairwise(samples)]
        assert max(gaps, default=0) <= max(5, 5 * count / 20), "a part of the life is missing"
        assert all(gap == 5 for gap in gaps[-49:]), "the latest are kept as they were taken"


@pytest.mark.parametrize("count", [10, 1000, 17_280])
def test_averages_stay_exact(count: int) -> None:
    """Leaving samples out does not change the share of the processor between those that stay."""
    assert {sample.cpu_used_pct for sample in filled(count).samples()} == {25.0}


def test_work_before_the_beginning_is_not_charged() -> None:
    """A sandbox that was made ahead had used its processor before it became a client's."""
    ring = SampleRing(START, cpu_before_s=3.0)
    ring.add(START + 2, usage(3.5))
    assert [sample.cpu_used_pct for sample in ring.samples()] == [25.0]


def test_values_are_those_that_were_measured() -> None:
    """Large numbers come out as they went in."""
    (sample,) = filled(1).samples()
    assert (sample.mem_used_bytes, sample.mem_cache_bytes, sample.disk_used_bytes) == (1, 1, 2**52 + 1)


def test_range_includes_both_ends() -> None:
    """Samples of the seconds of both ends belong to the range."""
    ring = filled(10)
    assert [sample.mem_used_bytes for sample in ring.samples(START + 10, START + 20)] == [2, 3, 4]
    assert ring.samples(START + 51, None) == []
    assert ring.samples(None, START + 4) == []
    ring.add(START + 50.7, usage(13))
    assert ring.samples(None, START + 50)[-1].at == START + 50.7, "clients give whole seconds"


def test_clock_that_goes_back_adds_nothing() -> None:
    """A sample that is not later than the last one is passed over."""
    ring = filled(3)
    ring.add(START + 1, usage(99))
    assert len(ring.samples()) == 3
