"""Measures one server through the official SDK: create, first run, warm run, kill, memory per sandbox. See README.md."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from e2b_code_interpreter import Sandbox

from framework.server import Server, running_server

Samples = dict[str, list[float]]
PAUSE_S = 1.5


def timed(samples: Samples, name: str, action: Callable[[], object]) -> object:
    """Run ``action`` and note its milliseconds under ``name``."""
    began = time.perf_counter()
    result = action()
    samples.setdefault(name, []).append((time.perf_counter() - began) * 1000)
    return result


def measure_floors(samples: Samples, rounds: int) -> None:
    """What the host itself needs to start a process."""
    for _ in range(rounds):
        timed(samples, "floor: fork + exec", lambda: subprocess.run(["true"], check=True))
        timed(
            samples, "floor: python process", lambda: subprocess.run([sys.executable, "-c", "print(1+1)"], check=True, capture_output=True)
        )


def measure_created_ahead(samples: Samples, server: Server, rounds: int) -> None:
    """Creations with pauses, so that each finds a sandbox that was made ahead."""
    for _ in range(rounds):
        time.sleep(PAUSE_S)
        began = time.perf_counter()
        sandbox = timed(samples, "create, made ahead", lambda: Sandbox.create(timeout=120, **server.sdk))
        assert isinstance(sandbox, Sandbox)
        assert sandbox.run_code("1+1").text == "2"
        samples.setdefault("made ahead + first run", []).append((time.perf_counter() - began) * 1000)
        sandbox.kill()


def measure_lives(samples: Samples, server: Server, rounds: int) -> None:
    """Whole lives of sandboxes, one after the other without a pause, so that most are made for their client."""
    for _ in range(rounds):
        began = time.perf_counter()
        sandbox = timed(samples, "create", lambda: Sandbox.create(timeout=120, **server.sdk))
        assert isinstance(sandbox, Sandbox)
        first = timed(samples, "first run", lambda s=sandbox: s.run_code("1+1").text)  # type: ignore[misc]
        assert first == "2"
        samples.setdefault("create + first run", []).append((time.perf_counter() - began) * 1000)
        for _ in range(10):
            timed(samples, "warm run", lambda s=sandbox: s.run_code("1+1"))  # type: ignore[misc]
        timed(samples, "kill", sandbox.kill)


def available_mib() -> float:
    """The host's MemAvailable."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) / 1024


def measure_memory(server: Server, count: int) -> float:
    """MiB of the host for each idle sandbox, all of them answering at the end."""
    warm = Sandbox.create(timeout=600, **server.sdk)  # the template's pages are in the cache, the slot maker runs
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


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` of the sorted values lie (nearest rank)."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


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
    floor = percentile(samples["floor: python process"], 0.5)
    rows = {
        name: {f"p{int(share * 100)}_ms": round(percentile(values, share), 2) for share in (0.5, 0.95, 0.99)} | {"n": len(values)}
        for name, values in samples.items()
    }
    print(f"{'':24}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'n':>6}{'p50 / python process':>22}")
    for name, row in rows.items():
        print(f"{name:24}{row['p50_ms']:9.1f}{row['p95_ms']:9.1f}{row['p99_ms']:9.1f}{row['n']:6.0f}{row['p50_ms'] / floor:22.2f}")
    print(f"memory per idle sandbox: {memory_mib:.1f} MiB (of {args.idle})")
    args.output.parent.mkdir(exist_ok=True)
    document = {
        "host": platform.platform(),
        "at": time.time(),
        "rows": rows,
        "memory_per_idle_sandbox_mib": round(memory_mib, 2),
        "idle": args.idle,
    }
    args.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
