"""Rows of our own server, one sandbox after the other, with the official Python SDK and with the lean client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.rawclient import RawClient
from bench.rows import Row, latency_row
from bench.stats import Samples, timed
from e2b_code_interpreter import Sandbox

from framework.server import Server

_SECTION = "sequential"
_PAUSE_S = 1.5
_WARM_OF_EACH = 10
_LIFETIME_S = 600


@dataclass(frozen=True)
class Rounds:
    """Number of rounds and time limit. Rounds that ended in time are reported."""

    count: int
    limit_s: float

    def __iter__(self) -> Iterator[int]:
        """At least one round."""
        deadline = time.monotonic() + self.limit_s
        for number in range(self.count):
            if number and time.monotonic() > deadline:
                return
            yield number


def measure_first_command(server: Server, rounds: Rounds) -> list[Row]:
    """Time to interactive as ComputeSDK defines it: one after the other, from the call to the end of the first command."""
    samples: Samples = {}
    for _ in rounds:
        began = time.perf_counter()
        sandbox = timed(samples, "create", lambda: Sandbox.create(timeout=_LIFETIME_S, **server.sdk))
        assert sandbox.commands.run("true").exit_code == 0
        samples.setdefault("total", []).append((time.perf_counter() - began) * 1000)
        timed(samples, "kill", sandbox.kill)
    return [
        latency_row(_SECTION, "ours.create_command_sdk", "create → first command (SDK)", samples["total"]),
        latency_row(_SECTION, "ours.create_sdk", "create only (SDK)", samples["create"]),
        latency_row(_SECTION, "ours.kill_sdk", "kill (SDK)", samples["kill"]),
    ]


def measure_first_run(server: Server, rounds: Rounds) -> list[Row]:
    """From the call to the first answer of code, then warm runs and commands."""
    samples: Samples = {}
    for _ in rounds:
        began = time.perf_counter()
        sandbox = Sandbox.create(timeout=_LIFETIME_S, **server.sdk)
        assert sandbox.run_code("1+1").text == "2"
        samples.setdefault("total", []).append((time.perf_counter() - began) * 1000)
        for _ in range(_WARM_OF_EACH):
            assert timed(samples, "warm", lambda s=sandbox: s.run_code("1+1")).text == "2"  # type: ignore[misc]  # mypy infers no type for a default of a lambda
        for _ in range(_WARM_OF_EACH):
            timed(samples, "command", lambda s=sandbox: s.commands.run("true"))  # type: ignore[misc]  # mypy infers no type for a default of a lambda
        sandbox.kill()
    return [
        latency_row(_SECTION, "ours.create_run_sdk", "create → first run_code (SDK)", samples["total"]),
        latency_row(_SECTION, "ours.warm_sdk", "warm run_code('1+1') (SDK)", samples["warm"]),
        latency_row(_SECTION, "ours.command_sdk", "commands.run('true') (SDK)", samples["command"]),
    ]


def measure_paced(server: Server, rounds: Rounds) -> list[Row]:
    """The same after a pause, so that the server has a sandbox ready."""
    samples: Samples = {}
    for _ in rounds:
        time.sleep(_PAUSE_S)
        began = time.perf_counter()
        sandbox = Sandbox.create(timeout=_LIFETIME_S, **server.sdk)
        assert sandbox.run_code("1+1").text == "2"
        samples.setdefault("total", []).append((time.perf_counter() - began) * 1000)
        sandbox.kill()
    name = f"create → first run_code, {_PAUSE_S:g} s after the last kill (SDK)"
    return [latency_row(_SECTION, "ours.create_run_paced_sdk", name, samples["total"])]


def measure_lean(server: Server, rounds: Rounds) -> list[Row]:
    """The same with the lean client; the difference is the SDK's own cost."""
    samples: Samples = {}

    async def note(name: str, began: float) -> None:
        samples.setdefault(name, []).append((time.perf_counter() - began) * 1000)

    async def measure() -> None:
        async with RawClient(server.url, server.api_key) as client:
            for _ in rounds:
                began = time.perf_counter()
                made = await client.create(_LIFETIME_S)
                await note("create", began)
                await client.run(made)
                await note("total", began)
                for _ in range(_WARM_OF_EACH):
                    began = time.perf_counter()
                    await client.run(made)
                    await note("warm", began)
                for _ in range(_WARM_OF_EACH):
                    began = time.perf_counter()
                    await client.command(made)
                    await note("command", began)
                began = time.perf_counter()
                await client.kill(made)
                await note("kill", began)

    asyncio.run(measure())
    return [
        latency_row(_SECTION, "ours.create_run_raw", "create → first run_code (lean client)", samples["total"]),
        latency_row(_SECTION, "ours.create_raw", "create only (lean client)", samples["create"]),
        latency_row(_SECTION, "ours.warm_raw", "warm run_code('1+1') (lean client)", samples["warm"]),
        latency_row(_SECTION, "ours.command_raw", "commands.run('true') (lean client)", samples["command"]),
        latency_row(_SECTION, "ours.kill_raw", "kill (lean client)", samples["kill"]),
    ]
