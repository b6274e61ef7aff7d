"""The rows of the report: each measurement, its budget, and its comparison.

A row's key is ``<who>.<what>``; budgets and comparisons refer to keys. A row without a measurement has a reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

from bench.stats import ratio, summarise


@dataclass(frozen=True)
class Budget:
    """The project's own limit for one number of a row."""

    key: str
    metric: str
    bound: float
    at_least: bool = False

    def judge(self, value: float) -> tuple[bool, float]:
        """Whether the budget is met, and the ratio of the value to the limit."""
        reached = value >= self.bound if self.at_least else value <= self.bound
        return reached, value / self.bound

    def describe(self, value: float) -> str:
        """A cell of the table."""
        reached, factor = self.judge(value)
        name = self.metric.removesuffix("_ms")
        sign = "≥" if self.at_least else "≤"
        return f"{name} {sign} {self.bound:g}: {'yes' if reached else '**no**'}, {factor:.2f} of it"


BUDGETS = (
    Budget("ours.create_run_sdk", "p50_ms", 25),
    Budget("ours.create_run_sdk", "p99_ms", 60),
    Budget("ours.warm_sdk", "p50_ms", 4),
    Budget("ours.warm_sdk", "p99_ms", 12),
    Budget("ours.command_sdk", "p50_ms", 6),
    Budget("ours.kill_sdk", "p50_ms", 50),
    *(Budget(f"ours.burst_100_create_{kind}", "wall_s", 2) for kind in ("sdk", "raw")),
    *(Budget(f"ours.burst_100_create_{kind}", "success_percent", 100, at_least=True) for kind in ("sdk", "raw")),
    *(Budget(f"ours.sustained_{kind}_{clients}", "per_s", 60, at_least=True) for kind in ("sdk", "raw") for clients in (4, 16, 64)),
    *(Budget(f"ours.idle_{level}", "mib_each", 10) for level in (10, 20, 100, 300, 1000)),
    Budget("ours.idle_1000", "answering", 1000, at_least=True),
)

COMPARISONS = (
    ("ours.create_command_sdk", ("floor.isolated_fork", "peer.bwrap", "peer.runsc", "peer.swerex_session")),
    (
        "ours.create_run_sdk",
        ("floor.isolated_fork", "floor.python", "floor.ipykernel_start", "peer.jupyter_create", "peer.bwrap", "peer.runsc"),
    ),
    ("ours.warm_sdk", ("floor.ipykernel_warm", "peer.jupyter_warm")),
    ("ours.warm_raw", ("floor.ipykernel_warm", "peer.jupyter_warm")),
    ("ours.command_sdk", ("floor.fork_exec", "peer.open_terminal_execute", "peer.swerex_warm")),
    ("ours.command_raw", ("floor.fork_exec", "peer.open_terminal_execute", "peer.swerex_warm")),
    ("ours.kill_sdk", ("peer.jupyter_delete",)),
)


@dataclass
class Row:
    """One line of the report. ``numbers`` has units in its names; ``reason`` says why numbers are missing."""

    section: str
    key: str
    name: str
    numbers: dict[str, float] = field(default_factory=dict)
    note: str = ""
    reason: str = ""
    samples: list[float] = field(default_factory=list)

    def __or__(self, numbers: dict[str, float]) -> Row:
        """This row with more numbers."""
        return replace(self, numbers={**self.numbers, **numbers})

    def budgets(self) -> list[tuple[Budget, float]]:
        """The budgets of this row that have a number."""
        return [(budget, self.numbers[budget.metric]) for budget in BUDGETS if budget.key == self.key and budget.metric in self.numbers]

    def as_json(self) -> dict[str, object]:
        """All fields, with the verdicts."""
        verdicts = [{**asdict(budget), "value": value, "reached": budget.judge(value)[0]} for budget, value in self.budgets()]
        return {**asdict(self), "budgets": verdicts}


def latency_row(section: str, key: str, name: str, samples: Iterable[float], note: str = "", **numbers: float) -> Row:
    """A row of times in milliseconds."""
    values = [round(value, 3) for value in samples]
    return Row(section, key, name, {**summarise(values), **numbers}, note, "" if values else "no samples", values)


def compare(rows: Iterable[Row]) -> list[tuple[Row, Row, float]]:
    """Our row, a floor or peer of the same run, and the ratio of their medians."""
    by_key = {row.key: row for row in rows if "p50_ms" in row.numbers}
    found = []
    for key, references in COMPARISONS:
        for reference in references:
            if key in by_key and reference in by_key:
                factor = ratio(by_key[key].numbers["p50_ms"], by_key[reference].numbers["p50_ms"])
                if factor is not None:
                    found.append((by_key[key], by_key[reference], factor))
    return found
