"""Measures the processor time of whole lives, warm runs, commands and contexts, by the processes that use it. See README.md.

    python bench/life.py                       # this version
    python bench/life.py --compare main~20     # and another one beside it, in turns

Processor time depends less than time on the clock on what else runs on the machine. It is read from the clocks of processes and of control
groups. The kernel's own threads are not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.rawclient import RawClient
from bench.revision import revision
from bench.rows import Row
from bench.serverside import instance_of
from bench.stats import percentile, write_results

from cloister.linux.cgroup import CgroupTree, find_tree
from framework.server import Server, running_server

PARTS = ("supervisor", "api process", "slot maker", "agent zygote", "kernel zygote", "sandboxes", "client")
_ZONE = {r"zone-\d+": "slot maker", r"zone-\d+-agent": "agent zygote", r"zone-\d+-kernel": "kernel zygote"}
_SETTLE_S = 0.4
"""The supervisor gathers the rest of an end for a quarter of a second."""
_LIFETIME_S = 600


@dataclass(frozen=True)
class Reading:
    """Milliseconds of processor time by part, and page faults of all that the control groups hold."""

    parts: dict[str, float]
    faults: int


class Meter:
    """Reads the clocks of one server."""

    def __init__(self, server: Server) -> None:
        self._tree: CgroupTree = find_tree(instance_of(server))
        self._pids = {"supervisor": server.child("node"), "api process": server.child("api")}

    def read(self) -> Reading:
        """The clocks now."""
        parts = {name: _process_ms(pid) for name, pid in self._pids.items()}
        parts |= dict.fromkeys(_ZONE.values(), 0.0)
        for name in self._tree.names():
            kind = next((kind for pattern, kind in _ZONE.items() if re.fullmatch(pattern, name)), None)
            if kind is not None:
                parts[kind] += 1000 * self._tree.cpu_used_s(name)
        parts["sandboxes"] = 1000 * self._tree.cpu_used_s("") - sum(parts[kind] for kind in _ZONE.values())
        used = resource.getrusage(resource.RUSAGE_SELF)
        parts["client"] = 1000 * (used.ru_utime + used.ru_stime)
        return Reading(parts, _faults(self._tree))


def _process_ms(pid: int) -> float:
    """Of all threads, ended ones too. Source: clock_getcpuclockid(3)."""
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e6


def _faults(tree: CgroupTree) -> int:
    directories = tree.directories("")
    path = (directories.get("memory") or directories["unified"]) / "memory.stat"
    fields = dict(line.split() for line in path.read_text().splitlines())
    return int(fields.get("total_pgfault", fields["pgfault"]))


@dataclass
class Cost:
    """The cost of one operation, a value for each round."""

    parts: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in (*PARTS, "all")})
    faults: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)

    def add(self, before: Reading, after: Reading, count: int) -> None:
        """A round of ``count`` operations."""
        spent = {name: (after.parts[name] - before.parts[name]) / count for name in PARTS}
        for name, value in {**spent, "all": sum(spent.values()) - spent["client"]}.items():
            self.parts[name].append(value)
        self.faults.append((after.faults - before.faults) / count)

    def summary(self) -> dict[str, float]:
        """Medians of the rounds; ``all`` is without the client."""
        found = {f"{name}_cpu_ms": round(statistics.median(values), 3) for name, values in self.parts.items()}
        return {**found, "page_faults": round(statistics.median(self.faults)), "p50_ms": round(percentile(self.wall_ms, 0.5), 2)}


Operation = Callable[[RawClient, Cost], Awaitable[None]]


async def _timed(cost: Cost, work: Awaitable[object]) -> None:
    began = time.perf_counter()
    await work
    cost.wall_ms.append((time.perf_counter() - began) * 1000)


async def _live(client: RawClient) -> None:
    made = await client.create(_LIFETIME_S)
    await client.run(made)
    await client.kill(made)


async def measure_lives(client: RawClient, meter: Meter, cost: Cost, count: int) -> None:
    """Create, first run, kill."""
    before = meter.read()
    for _ in range(count):
        await _timed(cost, _live(client))
    await asyncio.sleep(_SETTLE_S)
    cost.add(before, meter.read(), count)


async def _measure_inside(client: RawClient, meter: Meter, cost: Cost, count: int, call: Callable[..., Awaitable[object]]) -> None:
    made = await client.create(_LIFETIME_S)
    await call(made)
    before = meter.read()
    for _ in range(count):
        await _timed(cost, call(made))
    cost.add(before, meter.read(), count)
    await client.kill(made)


async def measure_runs(client: RawClient, meter: Meter, cost: Cost, count: int) -> None:
    """Runs in the default context."""
    await _measure_inside(client, meter, cost, 5 * count, client.run)


async def measure_commands(client: RawClient, meter: Meter, cost: Cost, count: int) -> None:
    """Commands in a login shell."""
    await _measure_inside(client, meter, cost, 5 * count, client.command)


async def measure_contexts(client: RawClient, meter: Meter, cost: Cost, count: int) -> None:
    """A second context of a new sandbox, and a run in it."""
    made = [await client.create(_LIFETIME_S) for _ in range(max(1, count // 10))]
    before = meter.read()
    for one in made:
        await _timed(cost, client.run_in_context(one))
    cost.add(before, meter.read(), len(made))
    for one in made:
        await client.kill(one)


OPERATIONS = {
    "create, first run, kill": measure_lives,
    "warm run": measure_runs,
    "command": measure_commands,
    "second context and its first run": measure_contexts,
}


async def measure(servers: dict[str, Server], rounds: int, count: int) -> dict[str, dict[str, Cost]]:
    """Every operation in turns on all servers, ``count`` times in each of the rounds."""
    costs = {name: {version: Cost() for version in servers} for name in OPERATIONS}
    async with contextlib.AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(RawClient(one.url, one.api_key)) for name, one in servers.items()}
        meters = {name: Meter(one) for name, one in servers.items()}
        for client in clients.values():
            for _ in range(10):
                await _live(client)
        for name, operation in OPERATIONS.items():
            for number in range(rounds):
                for version in sorted(servers, reverse=bool(number % 2)):
                    await operation(clients[version], meters[version], costs[name][version], count)
    return costs


def life_rows(server: Server, other: str | None, rounds: int, count: int) -> list[Row]:
    """Rows of the report: the processor time of each operation; with another revision in turns, if there is one."""
    rows = []
    with contextlib.ExitStack() as stack:
        servers = {"this": server} if other is None else {"this": server, other: stack.enter_context(_server_of(other))}
        costs = asyncio.run(measure(servers, rounds, count))
    for name, by_version in costs.items():
        for version, cost in by_version.items():
            key = f"ours.cpu_{name.split(',')[0].replace(' ', '_')}"
            title = name if version == "this" else f"{name}, of {version}"
            rows.append(Row("life", key if version == "this" else f"{key}_{version}", title, cost.summary()))
    return rows


@contextlib.contextmanager
def _server_of(other: str) -> Iterator[Server]:
    with revision(other), running_server("--log-level", "warning") as server:
        yield server


def show(costs: dict[str, dict[str, Cost]]) -> list[dict[str, object]]:
    """Print a table for each operation; the rows of all."""
    rows: list[dict[str, object]] = []
    for name, by_version in costs.items():
        summaries = {version: cost.summary() for version, cost in by_version.items()}
        print(f"\n{name + ': milliseconds of processor time':64}" + "".join(f"{version:>14}" for version in summaries))
        for key in next(iter(summaries.values())):
            values = [summary[key] for summary in summaries.values()]
            change = f"{values[0] / values[1]:12.2f}" if len(values) > 1 and values[1] else ""
            print(f"  {key:62}" + "".join(f"{value:14.2f}" for value in values) + change)
        rows += [{"operation": name, "version": version, **summary} for version, summary in summaries.items()]
    return rows


@contextlib.contextmanager
def servers_of(other: str | None) -> Iterator[dict[str, Server]]:
    """A server of this version, and one of the other, if there is to be one."""
    with contextlib.ExitStack() as stack:
        found = {"this": stack.enter_context(running_server("--log-level", "warning"))}
        if other is not None:
            found[other] = stack.enter_context(_server_of(other))
        yield found


def main() -> None:
    """Measure, print the tables, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--count", type=int, default=8, help="operations in each round")
    parser.add_argument("--compare", metavar="REV", help="another revision of the repository to measure in turns with this one")
    parser.add_argument("--only", action="append", choices=OPERATIONS, help="an operation to measure; all without any")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "life.json")
    args = parser.parse_args()
    for name in set(OPERATIONS).difference(args.only or OPERATIONS):
        del OPERATIONS[name]
    with servers_of(args.compare) as servers:
        costs = asyncio.run(measure(servers, args.rounds, args.count))
    write_results(args.output, show(costs))


if __name__ == "__main__":
    main()
