"""Measures ``commands.run("true")`` through the official SDK, beside the floor of starting a process on the host. See README.md."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.stats import Samples, print_samples, timed, write_results
from e2b import AsyncSandbox, Sandbox

from framework.server import Server, running_server

_BURST = 20


def measure_floor(samples: Samples, rounds: int) -> None:
    """The host's own cost to start a process."""
    for _ in range(rounds):
        timed(samples, "floor: fork + exec", lambda: subprocess.run(["true"], check=True))


def measure_sync(samples: Samples, server: Server, rounds: int) -> None:
    """Commands one after the other, with the synchronous SDK."""
    options: dict[str, Any] = server.sdk
    with Sandbox.create(timeout=600, **options) as sandbox:
        sandbox.commands.run("true")
        for _ in range(rounds):
            timed(samples, 'run("true")', lambda: sandbox.commands.run("true"))
            timed(samples, "start in the background", lambda: sandbox.commands.run("true", background=True))
            timed(samples, "list", sandbox.commands.list)
        sandbox.files.write("small", "x" * 1000)
        for _ in range(rounds):
            timed(samples, "write a small file", lambda: sandbox.files.write("small", "x" * 1000))
            timed(samples, "read a small file", lambda: sandbox.files.read("small"))


async def measure_async(samples: Samples, server: Server, rounds: int) -> None:
    """Bursts of simultaneous commands with the asynchronous SDK; the time of a burst divided by its commands."""
    options: dict[str, Any] = server.sdk
    sandbox = await AsyncSandbox.create(timeout=600, **options)
    try:
        for _ in range(max(1, rounds // _BURST)):
            began = time.perf_counter()
            await asyncio.gather(*(sandbox.commands.run("true") for _ in range(_BURST)))
            samples.setdefault(f"run, {_BURST} at once, each", []).append((time.perf_counter() - began) * 1000 / _BURST)
    finally:
        await sandbox.kill()


def main() -> None:
    """Measure, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "commands.json")
    args = parser.parse_args()
    samples: Samples = {}
    measure_floor(samples, args.rounds)
    with running_server() as server:
        measure_sync(samples, server, args.rounds)
        asyncio.run(measure_async(samples, server, args.rounds))
    write_results(args.output, print_samples(samples, "floor: fork + exec"))


if __name__ == "__main__":
    main()
