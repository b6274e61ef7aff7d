"""Shows the running step and the remaining time, and enforces the time limit of each step.

A step that fails or exceeds its limit becomes a row with the reason; the run continues.
"""

from __future__ import annotations

import contextlib
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from bench.rows import Row


@dataclass(frozen=True)
class Step:
    """A part of the run. ``estimate_s`` is for the display; ``limit_s`` ends it."""

    section: str
    title: str
    estimate_s: float
    limit_s: float
    action: Callable[[], list[Row]]


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside the block if it takes longer. Main thread only; blocks do not nest."""

    def expire(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"took longer than its bound of {seconds:.0f} s")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def end_orderly() -> None:
    """Let SIGTERM and SIGHUP leave every block, so that the started servers and clients end too."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def run_steps(steps: list[Step], show: Callable[[str], None] = print) -> list[Row]:
    """All rows, in order."""
    rows: list[Row] = []
    began = time.monotonic()
    for number, step in enumerate(steps, 1):
        planned_s = sum(earlier.estimate_s for earlier in steps[: number - 1])
        slowness = max(1.0, (time.monotonic() - began) / planned_s) if planned_s else 1.0
        left = slowness * sum(later.estimate_s for later in steps[number - 1 :])
        show(f"[{number:2}/{len(steps)}] {clock(time.monotonic() - began)}  {step.section}: {step.title} (about {clock(left)} left)")
        made = _run(step, show)
        for row in made:
            show(f"         {row.name}: {_short(row)}")
        rows += made
    return rows


def _run(step: Step, show: Callable[[str], None]) -> list[Row]:
    try:
        with bounded(step.limit_s):
            return step.action()
    except Exception as error:  # noqa: BLE001 - any fault of a step is a row of the report, and other steps continue
        show(traceback.format_exc(limit=-3).rstrip())
        return [Row(step.section, "", step.title, reason=f"{type(error).__name__}: {error}"[:400])]


def _short(row: Row) -> str:
    if row.reason:
        return f"not measured: {row.reason}"
    return ", ".join(f"{name} {value:g}" for name, value in row.numbers.items() if name not in {"p95_ms", "max_ms"})
