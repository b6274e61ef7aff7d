"""A cluster of 200 simulated nodes: how well sandboxes are placed, and how much the registry and its database bear.

    .venv-dev/bin/python bench/cluster.py                     # 10,000 sandboxes; some minutes
    .venv-dev/bin/python bench/cluster.py --sandboxes 100000 --processes 4

PostgreSQL runs on loopback with its usual durability. Nothing of it needs root, templates or a real node.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.cluster_placement import Outcome, Simulation, simulate
from bench.cluster_registry import Load, Report, cpu_of, run
from bench.stats import summarise, write_results

from framework.postgres import Postgres

_LOST = 0.1
_COMPARED: tuple[tuple[str, int | None], ...] = (("as the server", None), ("a random node", 1), ("the emptiest node", 10**6))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--sandboxes", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=4, help="api processes on PostgreSQL [4]")
    parser.add_argument("--only", choices=("placement", "sqlite", "postgresql"), help="one part")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    if args.only in (None, "placement"):
        results["placement"] = _placement(args)
    for name in ("sqlite", "postgresql"):
        if args.only in (None, name):
            results[name] = _registry(name, args)
    if args.json is not None:
        write_results(args.json, results)


def _placement(args: argparse.Namespace) -> list[dict[str, Any]]:
    print(f"\nplacement of {args.sandboxes:,} sandboxes on {args.nodes} nodes, 80 % full at the end")
    print(f"{'':34}{'least':>7}{'mean':>7}{'most':>7}{'sd':>7}{'refused':>9}{'failed':>8}{'has layers':>12}{'choice':>9}")
    rows = []
    for title, choices in _COMPARED:
        for unheard in (100, 2_000):
            wanted = Simulation(nodes=args.nodes, sandboxes=args.sandboxes, unheard=unheard, choices=choices)
            filled, lost = simulate(wanted, loses=_LOST)
            for name, outcome in ((f"{title}, {unheard:,} unheard", filled), (f"  {lost.lost:,} again after a loss", lost)):
                rows.append({"row": name, **_told(outcome)})
                print(f"{name:34}{_line(outcome)}")
    return rows


def _told(outcome: Outcome) -> dict[str, Any]:
    least, mean, most, deviation = outcome.spread
    loads = {"least": least, "mean": mean, "most": most, "deviation": deviation}
    calls = {"creations": outcome.creations, "refusals": outcome.refusals, "failures": outcome.failures}
    return {**loads, **calls, "with_layers": outcome.with_layers, "choice_us": outcome.choice_us}


def _line(outcome: Outcome) -> str:
    loads = "".join(f"{100 * load:6.1f}%" for load in outcome.spread)
    share = 100 * outcome.with_layers / max(1, outcome.creations)
    return f"{loads}{outcome.refusals:9,}{outcome.failures:8,}{share:11.1f}%{outcome.choice_us:6.0f} us"


def _registry(name: str, args: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cloister-bench-")))
        load = Load(url=None, directory=directory, processes=1, sandboxes=args.sandboxes, nodes=args.nodes, lost=round(args.nodes * _LOST))
        if name == "sqlite":
            return _tell(name, load, run(load), {"database_mib": _size_mib(directory / "api")})
        postgres = Postgres(is_durable=True)
        stack.callback(postgres.remove)
        postgres.start()
        url = postgres.new_database()
        load = replace(load, url=url, processes=args.processes)
        reports = run(load)
        return _tell(name, load, reports, _database_load(postgres, url))


def _size_mib(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.iterdir()) / 2**20


def _database_load(postgres: Postgres, url: str) -> dict[str, float]:
    """Of the whole run. Processes of the database that ended count in their parent."""
    columns = "xact_commit, xact_rollback, tup_inserted, tup_updated"
    commits, rollbacks, inserted, updated = postgres.execute(
        f"SELECT {columns} FROM pg_stat_database WHERE datname = current_database()", url
    )[0]
    ((size, wal),) = postgres.execute("SELECT pg_database_size(current_database()), pg_current_wal_lsn() - '0/0'", url)
    counts = {"commits": commits, "rollbacks": rollbacks, "inserted": inserted, "updated": updated}
    found = {key: float(str(value)) for key, value in counts.items()}
    return {**found, "database_mib": float(str(size)) / 2**20, "wal_mib": float(str(wal)) / 2**20, "database_cpu_s": cpu_of(postgres.pid)}


def _tell(name: str, load: Load, reports: Sequence[Report], database: dict[str, float]) -> dict[str, Any]:
    creations = sum(report.creations for report in reports)
    seconds = max(report.created_s for report in reports)
    times = summarise([one for report in reports for one in report.times_ms])
    by_node = [reports[0].by_node.get(f"n{number}", 0) for number in range(load.nodes)]
    results = {
        "creations_per_s": creations / seconds,
        "unanswered": sum(report.unanswered for report in reports),
        **times,
        "api_cpu_ms_each": 1000 * sum(report.cpu_s for report in reports) / creations,
        "rss_mib": max(report.rss_mib for report in reports),
        "least_on_a_node": min(by_node),
        "most_on_a_node": max(by_node),
        "lost": reports[0].ended,
        "lost_stored_s": reports[0].end_s,
        "lost_heard_s": max(report.end_s for report in reports),
        "start_s": reports[0].load_s,
        **database,
    }
    print(
        f"\nregistry on {name}: {creations:,} creations by {load.processes} processes, {load.at_once} at once each; {load.lost} nodes lost"
    )
    for key, value in results.items():
        print(f"    {key:18}{value:12,.1f}")
    return results


if __name__ == "__main__":
    main()
