"""The picture of a report, by matplotlib: times beside floors and peers, rates by clients, growth by live sandboxes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bench.rows import Row

_FIRST = (
    *("floor.isolated_fork", "floor.python", "peer.bwrap", "ours.create_run_paced_sdk", "ours.create_run_sdk", "ours.create_run_raw"),
    *("peer.runsc", "peer.swerex_session", "peer.jupyter_create", "floor.ipykernel_start"),
)
_WARM = (
    *("floor.fork_exec", "ours.warm_raw", "ours.warm_sdk", "floor.ipykernel_warm", "peer.jupyter_warm"),
    *("ours.command_raw", "ours.command_sdk", "peer.open_terminal_execute", "peer.swerex_warm"),
)
_OURS, _OTHERS = "#1f77b4", "#b0b0b0"


def _bars(axes: Any, rows: dict[str, Row], keys: tuple[str, ...], title: str) -> None:
    """Medians as bars, with a line to the p99."""
    shown = [rows[key] for key in reversed(keys) if key in rows]
    for place, row in enumerate(shown):
        median, tail = row.numbers["p50_ms"], row.numbers["p99_ms"]
        axes.barh(place, median, color=_OURS if row.key.startswith("ours") else _OTHERS)
        axes.plot([median, tail], [place, place], color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), [row.name for row in shown], fontsize=7)
    axes.set_xscale("log")
    axes.set_xlim(left=0.5)
    axes.set_xlabel("ms (bar: p50, line: to p99)", fontsize=7)
    axes.set_title(title, fontsize=9)


def _lines(axes: Any, rows: dict[str, Row], series: dict[str, tuple[str, str]], title: str) -> None:
    """``series`` has, by label, a pattern of keys whose group is the horizontal value, and the number to draw."""
    for label, (pattern, metric) in series.items():
        named = [(match, row.numbers) for key, row in rows.items() if (match := re.fullmatch(pattern, key))]
        found = [(int(match[1]), numbers[metric]) for match, numbers in named if metric in numbers]
        if found:
            axes.plot(*zip(*sorted(found), strict=True), marker="o", markersize=3, label=label)
    axes.set_title(title, fontsize=9)
    axes.set_ylim(bottom=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)


def draw(rows: list[Row], path: Path) -> None:
    """Write an SVG. Raises: ImportError without matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415 - an optional extra

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    mpl.rcParams["svg.fonttype"] = "none"  # text stays text: small and searchable
    mpl.rcParams["svg.hashsalt"] = "cloister"
    known = {row.key: row for row in rows if row.numbers}
    timed = {key: row for key, row in known.items() if "p50_ms" in row.numbers}
    figure, axes = plt.subplots(3, 2, figsize=(12, 11), layout="constrained")
    _bars(axes[0][0], timed, _FIRST, "From nothing to the first answer")
    _bars(axes[0][1], timed, _WARM, "Warm: code and commands")
    rates = {"SDK": (r"ours\.sustained_sdk_(\d+)", "per_s"), "lean client": (r"ours\.sustained_raw_(\d+)", "per_s")}
    _lines(axes[1][0], known, rates, "Lives per second (create, 1+1, kill), by clients")
    create = {"create → first run": (r"ours\.growth_(\d+)", "p50_ms"), "create": (r"ours\.growth_(\d+)", "create_p50_ms")}
    _lines(axes[1][1], known, create, "Creating (p50 ms), by live sandboxes")
    warm = {"p50": (r"ours\.growth_(\d+)", "warm_p50_ms"), "p99": (r"ours\.growth_(\d+)", "warm_p99_ms")}
    _lines(axes[2][0], known, warm, "Warm run (ms), by live sandboxes")
    memory = {"after a run in each": (r"ours\.idle_(\d+)", "mib_each"), "before any run": (r"ours\.idle_(\d+)", "mib_each_before_runs")}
    memory["charged to its control group"] = (r"ours\.idle_(\d+)", "charged_mib_each")
    _lines(axes[2][1], known, memory, "MiB of the host for each idle sandbox, by their number")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
