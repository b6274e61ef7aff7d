"""Samples and their percentiles, summaries, ratios and tables. No I/O except printing, no clock except in ``timed``.

Percentiles are by nearest rank: the smallest sample that at least ``share`` of all samples do not exceed. The p99 of fewer than a hundred
samples is therefore their maximum; every table shows the number of samples.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Samples = dict[str, list[float]]
"""Milliseconds by the name of the timed operation."""
SHARES = (0.5, 0.95, 0.99)
_T = TypeVar("_T")


def percentile(values: Iterable[float], share: float) -> float:
    """The nearest-rank percentile; ``share`` in (0, 1]. Raises: ValueError without values or for another share."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no samples")
    if not 0 < share <= 1:
        raise ValueError(f"{share} is not in (0, 1]")
    rank = math.ceil(round(share * len(ordered), 9))  # rounded, because 0.07 * 100 is more than 7
    return ordered[rank - 1]


def summarise(values: Iterable[float]) -> dict[str, float]:
    """``p50_ms``, ``p95_ms``, ``p99_ms``, ``max_ms`` and ``n``; empty without values."""
    ordered = sorted(values)
    if not ordered:
        return {}
    told = {f"p{round(share * 100)}_ms": round(percentile(ordered, share), 3) for share in SHARES}
    return {**told, "max_ms": round(ordered[-1], 3), "n": len(ordered)}


def ratio(value: float, reference: float) -> float | None:
    """The ratio of the value to ``reference``; None without a reference."""
    return value / reference if reference > 0 else None


def timed(samples: Samples, name: str, action: Callable[[], _T]) -> _T:
    """Run ``action`` and store its milliseconds under ``name``. A failure leaves no sample."""
    began = time.perf_counter()
    result = action()
    samples.setdefault(name, []).append((time.perf_counter() - began) * 1000)
    return result


def merge(into: Samples, more: Mapping[str, list[float]]) -> None:
    """Add the samples of another process."""
    for name, values in more.items():
        into.setdefault(name, []).extend(values)


def print_samples(samples: Samples, floor_name: str) -> dict[str, dict[str, float]]:
    """A table of all samples beside the floor; the summaries."""
    floor = percentile(samples[floor_name], 0.5)
    rows = {name: summarise(values) for name, values in samples.items()}
    print(f"{'':24}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'n':>6}   p50 / {floor_name}")
    for name, row in rows.items():
        print(f"{name:24}{row['p50_ms']:9.1f}{row['p95_ms']:9.1f}{row['p99_ms']:9.1f}{row['n']:6.0f}{row['p50_ms'] / floor:9.2f}")
    return rows


def write_results(path: Path, rows: object, **more: Any) -> None:
    """The JSON file of one program of this directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"host": platform.platform(), "at": time.time(), "rows": rows, **more}, indent=1) + "\n")
