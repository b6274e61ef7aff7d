"""The report as text, Markdown, JSON and a picture. Reads rows, measures nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.machine import Load
from bench.rows import Row, compare

_TITLES = {
    "floors": "Floors: the host and bare libraries",
    "peers": "Peers on this machine",
    "life": "Ours, processor time of one operation, by process",
    "sequential": "Ours, one after the other",
    "concurrent": "Ours, many at once",
    "sustained": "Ours, sustained: whole lives, one run each",
    "density": "Ours, many idle sandboxes",
}
_IN_COLUMNS = {"p50_ms", "p95_ms", "p99_ms", "max_ms", "n"}
_UNITS = {
    "_percent": " %",
    "_mib": " MiB",
    "_ms_each": " ms each",
    "_ms": " ms",
    "per_s": "/s",
    "_s": " s",
    "charged_mib_each": " MiB each charged to its control group",
    "mib_each_before_runs": " MiB each before any run",
    "mib_each": " MiB each",
}


@dataclass(frozen=True)
class Report:
    """All results of one run."""

    at: str
    took_s: float
    options: dict[str, Any]
    machine: dict[str, object]
    before: Load
    after: Load
    rows: list[Row]

    def warnings(self) -> list[str]:
        """Reasons not to trust the times."""
        pairs = (("before", self.before), ("after", self.after))
        return [
            f"The machine was busy {when} the run: {load.busy_percent:g} % of it was used by others (load average {load.load_1_min:g})."
            for when, load in pairs
            if load.is_busy
        ]

    def as_json(self) -> dict[str, object]:
        """As JSON-ready data."""
        compared = [{"ours": ours.key, "reference": other.key, "ratio_p50": round(factor, 4)} for ours, other, factor in compare(self.rows)]
        head = {"at": self.at, "took_s": round(self.took_s, 1), "options": self.options, "machine": self.machine}
        loads = {"before": asdict(self.before), "after": asdict(self.after), "warnings": self.warnings()}
        return {**head, **loads, "rows": [row.as_json() for row in self.rows], "comparisons": compared}


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _more(row: Row) -> str:
    """Numbers without a column, with their units."""
    told = []
    for name, value in row.numbers.items():
        if name in _IN_COLUMNS:
            continue
        ending = next((ending for ending in _UNITS if name.endswith(ending)), "")
        word = name.removesuffix(ending).replace("_", " ")
        told.append(f"{word + ' ' if word else ''}{_number(value)}{_UNITS.get(ending, '')}")
    return ", ".join(told)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: list[str], lines: list[list[str]]) -> list[str]:
    """A Markdown table with aligned columns, so that it is readable in a terminal too."""
    cells = [[_cell(text) for text in line] for line in [head, *lines]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    made = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() + " |" for line in cells]
    return [made[0], "| " + " | ".join("-" * width for width in widths) + " |", *made[1:]]


def _section(title: str, rows: list[Row]) -> list[str]:
    head = ["what", "p50 ms", "p95 ms", "p99 ms", "n", "more", "budget: reached, factor"]
    lines = []
    for row in rows:
        columns = [_number(row.numbers.get(name)) for name in ("p50_ms", "p95_ms", "p99_ms", "n")]
        more = "; ".join(text for text in (_more(row), row.note, f"**not measured:** {row.reason}" if row.reason else "") if text)
        lines.append([row.name, *columns, more, "; ".join(budget.describe(value) for budget, value in row.budgets())])
    used = [index for index in range(len(head)) if index == 0 or any(line[index] for line in lines)]
    return [f"## {title}", "", *_table([head[i] for i in used], [[line[i] for i in used] for line in lines]), ""]


def render(report: Report, plot: str | None) -> str:
    """The report in Markdown; ``plot`` is the file name of the picture in the same directory."""
    machine = report.machine
    text = ["# Benchmarks", ""]
    text += [f"Measured on {report.at}, in {report.took_s / 60:.0f} minutes, all side by side in one run of `bench/report.py`."]
    text += ["Times depend on the machine: read the ratios.", ""]
    text += [f"- machine: {machine['cores']} cores of {machine['processor']}, {machine['memory_gib']} GiB of memory"]
    text += [f"- system: kernel {machine['kernel']}, {machine['system']}"]
    text += [f"- version: {machine['commit']}, Python {machine['python']}"]
    for when, load in (("before", report.before), ("after", report.after)):
        text.append(f"- {when} the run: load average {load.load_1_min:g}, {load.busy_percent:g} % of all processors used by others")
    text += [f"- options: {', '.join(f'{name} {value}' for name, value in report.options.items())}", ""]
    text += [line for warning in report.warnings() for line in (f"**{warning}**", "")]
    text += [f"![Times, rates and growth]({plot})", ""] if plot else []
    for section, title in _TITLES.items():
        rows = [row for row in report.rows if row.section == section]
        text += _section(title, rows) if rows else []
    compared = [[ours.name, reference.name, f"{factor:.2f}"] for ours, reference, factor in compare(report.rows)]
    if compared:
        text += ["## Compared with floors and peers of the same run", "", *_table(["ours", "against", "ratio of p50"], compared), ""]
    return "\n".join(text)


def write(report: Report, directory: Path, name: str, plot: Path | None) -> Path:
    """Write ``name``.md and ``name``.json into ``directory``; returns the path of the Markdown file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(report.as_json(), indent=1) + "\n")
    path = directory / f"{name}.md"
    path.write_text(render(report, plot.name if plot else None))
    return path
