"""Measures what a sandbox notices of a neighbour that takes all it can get, on every runtime. See README.md."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.machine import look_at_load
from bench.stats import Samples, percentile, summarise, timed, write_results
from e2b_code_interpreter import Sandbox

from framework.server import Server, running_server
from framework.tiers import TIERS, create_on

_BOMBS = {
    "none": "true",
    "processor": "for i in $(seq 16); do (while :; do :; done) & done; wait",
    "forks": "f() { f | f & }; f; sleep 100",
    "memory": "while :; do python3 -c \"x = []\nwhile True: x.append(bytearray(b'x') * (8 << 20))\"; done",
    "disk": "while :; do dd if=/dev/zero of=/home/user/big bs=1M count=500 conv=fsync; done",
    "small files": "while :; do mkdir /home/user/d; for i in $(seq 3000); do echo > /home/user/d/$i; done; rm -r /home/user/d; done",
    "output": "yes",
}
_BEGIN_S = 1.0


def measure(server: Server, runtime: str, seconds: float) -> Samples:
    """Runs of a quiet sandbox, one each 20 ms, beside each bomb in another sandbox of the same runtime."""
    samples: Samples = {}
    quiet = create_on(server, runtime, timeout=3600)
    quiet.run_code("1+1")
    for name, command in _BOMBS.items():
        bomb = create_on(server, runtime, "base", timeout=600)
        with contextlib.suppress(Exception):  # it may end its sandbox at once
            bomb.commands.run(f"nohup sh -c {_quoted(command)} > /dev/null 2>&1", background=True, timeout=0)
        time.sleep(_BEGIN_S)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            timed(samples, name, lambda: quiet.run_code("1+1"))
            time.sleep(0.02)
        with contextlib.suppress(Exception):
            bomb.kill()
    Sandbox.kill(quiet.sandbox_id, **server.sdk)
    return samples


def _quoted(command: str) -> str:
    return "'" + command.replace("'", "'\\''") + "'"


def main() -> None:
    """Measure, print, and write bench/results/neighbours.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="time beside each bomb")
    args = parser.parse_args()
    before = look_at_load()
    with running_server() as server:
        columns = {name: measure(server, name, args.seconds) for name in TIERS}
    print(f"| neighbour, p50 (p99) in ms | {' | '.join(columns)} |\n| --- | {' | '.join('---' for _ in columns)} |")
    for name in _BOMBS:
        cells = [f"{percentile(samples[name], 0.5):.3g} ({percentile(samples[name], 0.99):.3g})" for samples in columns.values()]
        print(f"| {name} | {' | '.join(cells)} |")
    rows = {name: {row: summarise(values) for row, values in samples.items()} for name, samples in columns.items()}
    write_results(Path(__file__).parent / "results" / "neighbours.json", rows, load=vars(before))


if __name__ == "__main__":
    main()
