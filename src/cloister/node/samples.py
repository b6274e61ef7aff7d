"""A sandbox's usage over its life, in bounded memory: all recent samples, and older ones ever further apart.

Pure: no clock, no I/O. A sample holds the processor time *so far*. So the averages between the remaining samples stay exact when others
are dropped.

::

    history (at most N/2, spacing doubles when full, from the beginning on)  |  recent (at most N/2, as taken)
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from cloister.model.node import Sample, SandboxUsage

__all__ = ["SampleRing"]

_COLUMNS = 5  # at, processor time so far, memory used, cache, disk used: doubles hold them exactly up to 2**53


class SampleRing:
    """The samples of one sandbox that started at ``started_at``: at most ``size``, 40 bytes each."""

    def __init__(self, started_at: float, size: int = 720, *, cpu_before_s: float = 0.0) -> None:
        """``cpu_before_s`` is the processor time that a sandbox made ahead used before ``started_at``."""
        self._started_at = started_at
        self._cpu_before_s = cpu_before_s
        self._half = size // 2
        self._history = array("d")
        self._recent = array("d")
        self._spacing = 1
        self._passed = 0

    @property
    def newest_at(self) -> float:
        """The time of the last sample, or of the sandbox's start if there is none."""
        return self._recent[-_COLUMNS] if self._recent else self._started_at

    def add(self, at: float, usage: SandboxUsage) -> None:
        """Add a sample. A sample that is not later than the last one is ignored."""
        if self._recent and at <= self.newest_at:
            return
        row = (at, usage.cpu_used_s, usage.mem_used_bytes, usage.mem_cache_bytes, usage.disk_used_bytes)
        self._recent.extend(float(value) for value in row)
        if len(self._recent) > self._half * _COLUMNS:
            oldest = self._recent[:_COLUMNS]
            del self._recent[:_COLUMNS]
            self._keep(oldest)

    def _keep(self, row: array[float]) -> None:
        if self._passed % self._spacing == 0:
            self._history.extend(row)
        self._passed += 1
        if len(self._history) > self._half * _COLUMNS:
            rows = [self._history[start : start + _COLUMNS] for start in range(0, len(self._history), 2 * _COLUMNS)]
            self._history = array("d", (value for row in rows for value in row))
            self._spacing *= 2

    def samples(self, start: float | None = None, end: float | None = None) -> list[Sample]:
        """The samples of the seconds ``start`` to ``end``, both included, oldest first."""
        return [sample for sample in self._all() if (start is None or sample.at >= start) and (end is None or int(sample.at) <= end)]

    def _all(self) -> Iterator[Sample]:
        before_at, before_s = self._started_at, self._cpu_before_s
        for column in (self._history, self._recent):
            for start in range(0, len(column), _COLUMNS):
                at, cpu_used_s, used, cache, disk = column[start : start + _COLUMNS]
                share = (cpu_used_s - before_s) / max(at - before_at, 0.001)
                yield Sample(
                    at=at,
                    cpu_used_pct=round(max(0.0, 100.0 * share), 2),
                    mem_used_bytes=int(used),
                    mem_cache_bytes=int(cache),
                    disk_used_bytes=int(disk),
                )
                before_at, before_s = at, cpu_used_s
