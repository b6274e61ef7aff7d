"""Measures pause, resume, wake and fork through the official SDK, beside a bare freeze and other tools in the same run. See README.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.checkpoints import measure_criu, measure_runsc
from bench.machine import available_mib, look_at_load
from bench.saved import SERVER, measure_saved
from bench.serverside import charged_mib, instance_of
from bench.stats import Samples, print_samples, timed, write_results
from e2b_code_interpreter import Sandbox

from cloister.linux.cgroup import CgroupTree, find_tree
from framework.lifecycles import WEB_SERVER, api, inside
from framework.server import Server, running_server
from framework.waiting import eventually

_FLOOR = "floor: freeze"
_SIZES = {"idle": "pass", "+100 MB": "import os; held = os.urandom(100_000_000)"}
_BUDGETS_MS = {"pause, memory, idle": 10.0, "pause (bare HTTP)": 10.0, "resume, memory, idle": 10.0, "resume (bare HTTP)": 10.0}
_BUDGETS_MS |= {"standstill, idle": 120.0, "resume, from disk, idle": 150.0, "live fork to 5": 300.0}
_WAKE: Any = {"on_timeout": "pause", "auto_resume": True}
_SETTLE_S = 2.0


@dataclass(frozen=True)
class Place:
    """The server, the samples, and the number of rounds."""

    server: Server
    samples: Samples
    rounds: int

    def new(self, **options: Any) -> Sandbox:
        """A sandbox whose kernel has answered."""
        sandbox = Sandbox.create(timeout=900, **options, **self.server.sdk)
        assert sandbox.run_code("1+1").text == "2"
        return sandbox

    def timed(self, name: str, action: Any) -> Any:
        """Run ``action`` and store its milliseconds."""
        return timed(self.samples, name, action)


def measure_floor(place: Place) -> None:
    """The control group of a live sandbox, frozen and thawed without the server."""
    sandbox = place.new()
    groups: CgroupTree = find_tree(instance_of(place.server))
    for _ in range(place.rounds):
        place.timed(_FLOOR, partial(groups.freeze, sandbox.sandbox_id, 10))
        place.timed("floor: thaw", partial(groups.thaw, sandbox.sandbox_id))
    sandbox.kill()


def measure_kinds(place: Place) -> None:
    """Pause, resume and the first run after it, of both kinds and sizes."""
    for size, code in _SIZES.items():
        for mode, kind in (("full", "memory"), ("filesystem", "files")):
            sandbox = place.new()
            names = [f"{step}, {kind}, {size}" for step in ("pause", "resume", "first run")]
            for _ in range(place.rounds if mode == "full" else max(3, place.rounds // 3)):
                sandbox.run_code(code)
                place.timed(names[0], partial(sandbox.pause, mode=mode))
                place.timed(names[1], partial(sandbox.connect, timeout=900))
                assert place.timed(names[2], partial(sandbox.run_code, "1+1")).text == "2"
            sandbox.kill()


def measure_lean(place: Place) -> None:
    """The same in memory by bare HTTP: without the SDK's own work."""
    sandbox = place.new()
    path = f"/sandboxes/{sandbox.sandbox_id}"
    for _ in range(place.rounds):
        assert place.timed("pause (bare HTTP)", partial(api, place.server, "POST", f"{path}/pause", {"memory": True})).status == 204
        assert place.timed("resume (bare HTTP)", partial(api, place.server, "POST", f"{path}/resume", {"timeout": 900})).status == 201
    sandbox.kill()


def measure_wakes(place: Place) -> None:
    """A request to a web server inside: while it runs, and while it is paused and the request wakes it."""
    sandbox = place.new(lifecycle=_WAKE)
    sandbox.commands.run(WEB_SERVER, background=True, cwd="/tmp")
    ask = partial(inside, place.server, sandbox.sandbox_id, 8000)
    eventually(lambda: ask().status == 200)
    for _ in range(place.rounds):
        assert place.timed("request, running", ask).status == 200
        sandbox.pause()
        assert place.timed("request that wakes it", ask).status == 200
    sandbox.kill()


def measure_memory(place: Place, count: int) -> dict[str, float]:
    """MiB for each of ``count`` sandboxes, of the host and of the control groups: running, paused with memory, paused with files."""
    warm, groups = place.new(), find_tree(instance_of(place.server))
    time.sleep(_SETTLE_S)
    free, charged = available_mib(), charged_mib(groups)[0]
    sandboxes = [place.new() for _ in range(count)]
    found = {}

    def look(name: str) -> None:
        time.sleep(_SETTLE_S)
        found[f"{name}_mib"] = round((free - available_mib()) / count, 2)
        found[f"{name}_charged_mib"] = round((charged_mib(groups)[0] - charged) / count, 2)

    look("running")
    for sandbox in sandboxes:
        sandbox.pause()
    look("paused")
    for sandbox in sandboxes:
        sandbox.connect(timeout=900)
        sandbox.pause(mode="filesystem")
    look("paused_files")
    for sandbox in [*sandboxes, warm]:
        sandbox.kill()
    return found


def measure_forks(place: Place) -> dict[str, str]:
    """A fork of the files to 1, 5 and 20 copies, until the call returns; why a row is missing."""
    missing = {}
    sandbox = place.new()
    for count in (1, 5, 20):
        for _ in range(max(3, place.rounds // 10)):
            answer = place.timed(f"fork of files to {count}", partial(_fork, place.server, sandbox, count))
            if answer.status != 201:
                place.samples.pop(f"fork of files to {count}")
                missing[f"fork of files to {count}"] = f"{answer.status}: {json.loads(answer.body).get('message', '')}"
                break
            for one in answer.json():
                if "sandbox" in one:
                    api(place.server, "DELETE", f"/sandboxes/{one['sandbox']['sandboxID']}")
                else:
                    missing[f"a copy of {count}"] = str(one["error"])
    sandbox.kill()
    return missing


def _fork(server: Server, sandbox: Sandbox, count: int) -> Any:
    return api(server, "POST", f"/sandboxes/{sandbox.sandbox_id}/fork", {"count": count, "timeout": 300, "memory": False})


def judge(rows: dict[str, dict[str, float]]) -> list[str]:
    """The rows over their budget."""
    return [
        f"{name}: {rows[name]['p50_ms']} ms, and its budget is {budget:g} ms"
        for name, budget in _BUDGETS_MS.items()
        if name in rows and rows[name]["p50_ms"] > budget
    ]


def main() -> None:
    """Measure, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--idle", type=int, default=20, help="sandboxes for the memory rows")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "lifecycle.json")
    args = parser.parse_args()
    samples: Samples = {}
    load = look_at_load()
    with running_server("--pool-size", "0", "--max-sandboxes-per-team", "100") as server:
        place = Place(server, samples, args.rounds)
        measure_floor(place)
        measure_kinds(place)
        measure_lean(place)
        measure_wakes(place)
        missing = measure_forks(place)
        memory = measure_memory(place, args.idle)
    with running_server("--pool-size", "0", "--max-sandboxes-per-team", "100", *SERVER) as server:
        more, missing_too = measure_saved(server, samples, max(3, args.rounds // 2), args.idle)
    memory, missing = memory | more, missing | missing_too
    missing |= measure_criu(samples, args.rounds) | measure_runsc(samples, args.rounds)
    rows = print_samples(samples, _FLOOR)
    print("".join(f"{name}: {value} MiB\n" for name, value in memory.items()), end="")
    for name, reason in missing.items():
        print(f"{name}: {reason}")
    over = judge(rows)
    print("\n".join(over) or "every budget is kept", f"(load of others before: {load.busy_percent} %)")
    write_results(args.output, rows, memory=memory, missing=missing, over_budget=over, idle=args.idle, busy_percent=load.busy_percent)


if __name__ == "__main__":
    main()
