"""Measures floors, peers on this machine, and its own server side by side in one run; then writes a report.

Sections: floors, peers, life, sequential, concurrent, sustained, density. Needs root and the built templates, as the server does. On
first use it installs the peers: Python packages into environments below a cache directory, and the Debian packages bubblewrap and runsc.
See README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import density, floors, life, load, ours, peers
from bench.document import Report, render, write
from bench.installed import PeerHome, default_cache
from bench.machine import describe, look_at_load
from bench.plot import draw
from bench.progress import Step, clock, end_orderly, run_steps
from bench.rows import Row

from framework.server import Server, running_server

SECTIONS = ("floors", "peers", "life", "sequential", "concurrent", "sustained", "density")
_OURS = ("life", "sequential", "concurrent", "sustained", "density")
_HERE = Path(__file__).parent
_KEPT = _HERE.parent / "docs"
_STAGGER_S = 0.2


@dataclass(frozen=True)
class Scale:
    """The amount of measurement. ``limit_s`` bounds each group of sequential rows."""

    rounds: int
    starts: int
    lives: int
    paced: int
    limit_s: float
    at_once: int
    clients: tuple[int, ...]
    sustained_s: float
    levels: tuple[int, ...]
    level_limit_s: float
    watch_s: float
    probes: int


FULL = Scale(200, 20, 100, 20, 90, 100, (1, 4, 16, 64), 15, (10, 100, 300, 1000), 300, 20, 20)
QUICK = Scale(30, 3, 10, 3, 10, 10, (1, 4), 3, (10, 20), 30, 4, 3)


def host_steps(scale: Scale, home: PeerHome) -> list[Step]:
    """Floors and peers."""
    size = floors.Size(scale.rounds, scale.starts)
    made = [
        ("floors", "processes", 0.08 * size.rounds, lambda: floors.measure_processes(size)),
        ("floors", "jupyter_client and ipykernel", 3 + 1.3 * size.starts, lambda: floors.measure_ipykernel(home, size)),
        ("peers", "bubblewrap", 0.05 * size.rounds, lambda: peers.measure_bwrap(home, size)),
        ("peers", "runsc do", 0.5 * size.starts, lambda: peers.measure_runsc(home, size)),
        ("peers", "Jupyter server", 3 + size.starts + 0.06 * size.rounds, lambda: peers.measure_jupyter(home, size)),
        ("peers", "SWE-ReX", 3 + size.starts + 0.15 * size.rounds, lambda: peers.measure_swe_rex(home, size)),
        ("peers", "Open Terminal", 5 + 0.05 * size.rounds, lambda: peers.measure_open_terminal(home, size)),
    ]
    return [Step(section, title, estimate, 420 + 5 * estimate, action) for section, title, estimate, action in made]


def life_steps(scale: Scale, server: Server, other: str | None) -> list[Step]:
    """Processor time of lives, runs, commands and contexts."""
    rounds = max(2, scale.lives // 10)
    estimate = 4.0 * rounds * (1 if other is None else 2)
    return [Step("life", "processor time", estimate, 120 + 5 * estimate, partial(life.life_rows, server, other, rounds, 8))]


def sequential_steps(scale: Scale, server: Server) -> list[Step]:
    """One after the other."""
    rounds = ours.Rounds(scale.lives, scale.limit_s)
    made = [
        ("create → first command", 0.3 * scale.lives, partial(ours.measure_first_command, server, rounds)),
        ("create → first run_code, warm runs, commands", 0.5 * scale.lives, partial(ours.measure_first_run, server, rounds)),
        ("creations with pauses", 2.0 * scale.paced, partial(ours.measure_paced, server, ours.Rounds(scale.paced, scale.limit_s))),
        ("the same by the lean client", 0.4 * scale.lives, partial(ours.measure_lean, server, rounds)),
    ]
    return [Step("sequential", title, min(estimate, scale.limit_s), scale.limit_s + 60, action) for title, estimate, action in made]


def concurrent_steps(scale: Scale, server: Server) -> list[Step]:
    """Staggered and at once."""
    steps = []
    for stagger_s, title in ((_STAGGER_S, "staggered"), (0.0, "burst")):
        for kind, who in load.KINDS.items():
            action = partial(load.burst_rows, server, kind, scale.at_once, stagger_s)
            estimate = 6 + scale.at_once * (stagger_s + 0.1)
            steps.append(Step("concurrent", f"{title}, {scale.at_once} ({who})", estimate, 120 + 2 * estimate, action))
    return steps


def sustained_steps(scale: Scale, server: Server) -> list[Step]:
    """Rates."""
    steps = []
    for clients in scale.clients:
        for kind, who in load.KINDS.items():

            def action(kind: str = kind, clients: int = clients) -> list[Row]:
                return [load.sustained_row(server, kind, clients, scale.sustained_s)]

            title = f"{clients} at once for {scale.sustained_s:g} s ({who})"
            steps.append(Step("sustained", title, scale.sustained_s + 4, scale.sustained_s + 120, action))
    return steps


def density_steps(scale: Scale, server: Server) -> list[Step]:
    """Many idle ones."""
    plan = density.Plan(scale.levels, scale.level_limit_s, scale.watch_s, scale.probes)
    estimate = 0.2 * max(scale.levels) + len(scale.levels) * (scale.watch_s + 8 + scale.probes)
    limit = len(scale.levels) * (scale.watch_s + 60 + 2 * scale.probes) + scale.level_limit_s * 2 + 120
    return [Step("density", f"up to {max(scale.levels)} idle sandboxes", estimate, limit, lambda: density.measure_density(server, plan))]


@contextlib.contextmanager
def server_for(sections: set[str], options: list[str]) -> Iterator[Server | None]:
    """A server if a section needs one."""
    if not sections.intersection(_OURS):
        yield None
        return
    with running_server("--max-sandboxes-per-team", "5000", "--log-level", "warning", *options) as server:
        yield server


def measure(sections: set[str], scale: Scale, home: PeerHome, options: list[str], other: str | None = None) -> list[Row]:
    """All rows of the sections. The server runs meanwhile, but gets requests only in its own steps."""
    rows: list[Row] = []
    try:
        with server_for(sections, options) as server:
            steps = host_steps(scale, home)
            if server is not None:
                steps += life_steps(scale, server, other) + sequential_steps(scale, server) + concurrent_steps(scale, server)
                steps += sustained_steps(scale, server) + density_steps(scale, server)
            rows += run_steps([step for step in steps if step.section in sections], partial(print, flush=True))
    except AssertionError as error:  # the server did not start, or left objects behind: report the measured rows anyway
        rows.append(Row("density", "", "start and clean end of the server", reason=str(error)[-400:]))
    return rows


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"what to measure; all without any: {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="a run of about two minutes with few samples")
    parser.add_argument("--output", type=Path, default=_HERE / "results", help="directory of report.md, report.json and report.svg")
    parser.add_argument("--keep", action="store_true", help="also renew the report that is kept in the repository, docs/benchmarks.md")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="directory of the peers' environments (default: %(default)s)")
    parser.add_argument("--no-install", action="store_true", help="install nothing; peers that are missing are told as missing")
    served = "for cloister serve, such as --server-option=--pool-size=10"
    parser.add_argument("--server-option", action="append", default=[], metavar="OPTION", help=served)
    parser.add_argument("--compare", metavar="REV", help="another revision, whose lives are measured in turns with this one's")
    args = parser.parse_args()
    unknown = set(args.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown sections {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    return args


def picture(rows: list[Row], path: Path) -> Path | None:
    """The picture's file; None with a message how to get it."""
    try:
        draw(rows, path)
    except ImportError:
        print("no picture: `make bench` brings matplotlib")
        return None
    return path


def main() -> int:
    """Measure, print, write."""
    args = parse()
    end_orderly()
    sections = set(args.sections or SECTIONS)
    began, at = time.monotonic(), dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    before = look_at_load()
    if before.is_busy:
        print(f"warning: {before.busy_percent:g} % of this machine is used by others; times will be worse than they need to be")
    scale = QUICK if args.quick else FULL
    rows = measure(sections, scale, PeerHome(args.cache, may_install=not args.no_install), args.server_option, args.compare)
    options = {"size": "quick" if args.quick else "full", "sections": " ".join(sorted(sections, key=SECTIONS.index))}
    if args.server_option:
        options["server"] = " ".join(args.server_option)
    report = Report(at, time.monotonic() - began, options, describe(), before, look_at_load(), rows)
    path = write(report, args.output, "report", picture(rows, args.output / "report.svg"))
    if args.keep:
        path = write_kept(report)
    print(f"\n{render(report, None)}\nwritten to {path}, {clock(report.took_s)} minutes")
    for warning in report.warnings():
        print(f"warning: {warning}")
    return 0


def write_kept(report: Report) -> Path:
    """Renew the report in the repository: text and picture, without the samples."""
    plot = picture(report.rows, _KEPT / "benchmarks.svg")
    path = _KEPT / "benchmarks.md"
    path.write_text(render(report, plot.name if plot else None))
    return path


if __name__ == "__main__":
    sys.exit(main())
