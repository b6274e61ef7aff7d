"""Measures one server through the official SDK: create, first run, warm run, kill, memory per sandbox. See README.md."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.machine import available_mib
from bench.stats import Samples, print_samples, timed, write_results
from e2b_code_interpreter import Sandbox

from framework.server import Server, running_server

PAUSE_S = 1.5


def measure_floors(samples: Samples, rounds: int) -> None:
    """The host's own cost to start a process."""
    for _ in range(rounds):
        timed(samples, "floor: fork + exec", lambda: subprocess.run(["true"], check=True))
        timed(
            samples, "floor: python process", lambda: subprocess.run([sys.executable, "-c", "print(1+1)"], check=True, capture_output=True)
        )


def measure_created_ahead(samples: Samples, server: Server, rounds: int) -> None:
    """Creations with pauses, so that each gets a sandbox that was created ahead."""
    for _ in range(rounds):
        time.sleep(PAUSE_S)
        began = time.perf_counter()
        sandbox = timed(samples, "create, made ahead", lambda: Sandbox.create(timeout=120, **server.sdk))
        assert isinstance(sandbox, Sandbox)
        assert sandbox.run_code("1+1").text == "2"
        samples.setdefault("made ahead + first run", []).append((time.perf_counter() - began) * 1000)
        sandbox.kill()


def measure_lives(samples: Samples, server: Server, rounds: int) -> None:
    """Whole lives of sandboxes without pauses, so that most are created on request."""
    for _ in range(rounds):
        began = time.perf_counter()
        sandbox = timed(samples, "create", lambda: Sandbox.create(timeout=120, **server.sdk))
        assert isinstance(sandbox, Sandbox)
        first = timed(samples, "first run", lambda s=sandbox: s.run_code("1+1").text)  # type: ignore[misc]  # mypy infers no type for a default of a lambda
        assert first == "2"
        samples.setdefault("create + first run", []).append((time.perf_counter() - began) * 1000)
        for _ in range(10):
            timed(samples, "warm run", lambda s=sandbox: s.run_code("1+1"))  # type: ignore[misc]  # mypy infers no type for a default of a lambda
        timed(samples, "kill", sandbox.kill)


def measure_memory(server: Server, count: int) -> float:
    """MiB of the host for each idle sandbox; all must answer at the end."""
    warm = Sandbox.create(timeout=600, **server.sdk)  # warms the template's pages and starts the slot maker
    warm.run_code("1")
    before = available_mib()
    sandboxes = [Sandbox.create(timeout=600, **server.sdk) for _ in range(count)]
    for sandbox in sandboxes:
        sandbox.run_code("1")
    time.sleep(2)
    used = before - available_mib()
    assert all(sandbox.run_code("1+1").text == "2" for sandbox in sandboxes)
    for sandbox in [*sandboxes, warm]:
        sandbox.kill()
    return used / count


def main() -> None:
    """Measure, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--idle", type=int, default=20, help="sandboxes for the memory row")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "sandbox.json")
    args = parser.parse_args()
    samples: Samples = {}
    measure_floors(samples, args.rounds)
    with running_server() as server:
        measure_created_ahead(samples, server, args.rounds)
        measure_lives(samples, server, args.rounds)
        memory_mib = measure_memory(server, args.idle)
    rows = print_samples(samples, "floor: python process")
    print(f"memory per idle sandbox: {memory_mib:.1f} MiB (of {args.idle})")
    write_results(args.output, rows, memory_per_idle_sandbox_mib=round(memory_mib, 2), idle=args.idle)


if __name__ == "__main__":
    main()
