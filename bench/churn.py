"""Creations and kills by clients that disconnect at random moments, then a check for leftovers. Exit code 1 if there are any.

Clients disconnect during a creation, a run, a stream or a kill, by FIN or RST, at random moments whose seed is printed. Before the server
stops, every live sandbox must belong to a client. The server's descriptors, threads, memory, mounts, network namespaces, loop devices,
control groups and processes must be as before. After the stop the census must be empty.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.progress import clock, end_orderly
from bench.rawclient import TEMPLATE
from bench.serverside import Holdings, holdings
from bench.stats import write_results
from bench.wire import Answer, Departure, Wire, WrongAnswerError

from framework.server import Server, running_server

_CODE_PORT = 49999
_LIFETIME_S = 600
_ORPHAN_S = 30.0
"""The sweeper kills a sandbox of this age that no client has: its answer or its kill was lost."""
_SLEEP = "import time\nfor _ in range(20): time.sleep(0.05)"
_STREAM = "import time\nfor n in range(400):\n    print('line', n, flush=True)\n    time.sleep(0.01)"
_SLACK = {"supervisor_fds": 4, "api_fds": 8, "supervisor_threads": 8, "api_threads": 8}
_CROWD = 4
"""The warm-up has this many times more clients, because thread pools grow to their largest size and then stay."""
_RSS_SLACK_MIB = 48.0
_RSS_SLACK_KIB_A_CYCLE = 4.0
"""The server remembers ended sandboxes for a day (``ended_retention_s``); this memory is no leak."""


@dataclass(frozen=True)
class Plan:
    """The amount of work. ``limit_s`` ends the cycles at any point; ``settle_s`` is the time for the server to clean up."""

    cycles: int
    at_once: int
    seed: int
    limit_s: float
    settle_s: float = 60.0


@dataclass
class Outcome:
    """The result of a run, and all faults."""

    done: Counter[str] = field(default_factory=Counter)
    left: int = 0
    swept: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    took_s: float = 0.0


class Churn:
    """Clients of one server."""

    def __init__(self, server: Server, plan: Plan) -> None:
        self._wire = Wire(server.url, server.api_key)
        self._random = random.Random(plan.seed)
        self._create_s = 0.2
        self.outcome = Outcome()
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "stays to the end": self._whole,
            "leaves while creating": self._leave_create,
            "leaves while running": self._leave_run,
            "leaves in a stream": self._leave_stream,
            "leaves while killing": self._leave_kill,
        }

    def _departure(self, within_s: float, *, on_output: bool = False) -> Departure:
        return Departure(self._random.uniform(0, within_s), on_output, reset=self._random.random() < 0.5)

    async def cycles(self, count: int, at_once: int, limit_s: float, show: Callable[[str], None]) -> None:
        """Run ``count`` cycles, ``at_once`` of them at a time; fewer if the time is over."""
        deadline, shown, left = time.monotonic() + limit_s, time.monotonic(), count

        async def client() -> None:
            nonlocal left, shown
            while left > 0 and time.monotonic() < deadline:
                left -= 1
                name = self._random.choice(list(self._kinds))
                try:
                    await self._kinds[name]()
                except (OSError, TimeoutError, WrongAnswerError, asyncio.IncompleteReadError, ValueError, KeyError) as error:
                    self.outcome.errors[f"{name}: {type(error).__name__}: {error}"[:300]] += 1
                self.outcome.done[name] += 1
                if time.monotonic() - shown > 5:
                    shown = time.monotonic()
                    show(f"  {count - left} of {count} cycles, {clock(max(0.0, deadline - shown))} left of the time")

        sweeper = asyncio.create_task(self._sweep_for_ever())
        try:
            await asyncio.gather(*(client() for _ in range(at_once)))
        finally:
            sweeper.cancel()

    async def _create(self) -> dict[str, Any]:
        began = time.monotonic()
        answer = _checked(await self._wire.control("POST", "/v2/sandboxes", self._wish()), 201)
        self._create_s += 0.1 * (time.monotonic() - began - self._create_s)
        created: dict[str, Any] = answer.json()
        return created

    def _wish(self) -> dict[str, Any]:
        return {"templateID": TEMPLATE, "timeout": _LIFETIME_S, "metadata": {"churn": str(time.time())}}

    async def _execute(self, created: dict[str, Any], code: str, leave: Departure | None = None) -> Answer | None:
        headers = {"E2b-Sandbox-Id": created["sandboxID"], "E2b-Sandbox-Port": str(_CODE_PORT)}
        headers |= {"X-Access-Token": created["envdAccessToken"], "Content-Type": "application/json"}
        return await self._wire.request("POST", "/execute", headers, {"code": code}, leave)

    async def _kill(self, sandbox_id: str, leave: Departure | None = None) -> None:
        answer = await self._wire.control("DELETE", f"/sandboxes/{sandbox_id}", leave=leave)
        if leave is None:
            _checked(answer, 204, 404)

    async def _whole(self) -> None:
        created = await self._create()
        answer = _checked(await self._execute(created, "6 * 7"), 200)
        if b'"42"' not in answer.raw:
            raise WrongAnswerError(f"6 * 7 was answered by {answer.raw[:200]!r}")
        await self._kill(created["sandboxID"])

    async def _leave_create(self) -> None:
        await self._wire.control("POST", "/v2/sandboxes", self._wish(), self._departure(1.5 * self._create_s))
        self.outcome.left += 1

    async def _leave_run(self) -> None:
        created = await self._create()
        await self._execute(created, _SLEEP, self._departure(0.5))
        self.outcome.left += 1
        await self._kill(created["sandboxID"])

    async def _leave_stream(self) -> None:
        created = await self._create()
        await self._execute(created, _STREAM, self._departure(0.2, on_output=True))
        self.outcome.left += 1
        await self._kill(created["sandboxID"])

    async def _leave_kill(self) -> None:
        created = await self._create()
        await self._kill(created["sandboxID"], self._departure(0.1))
        self.outcome.left += 1

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(5)
            await self.sweep(_ORPHAN_S)

    async def sweep(self, older_s: float) -> int:
        """Kill sandboxes that no client has; returns their number."""
        answer = _checked(await self._wire.control("GET", "/sandboxes"), 200)
        now = time.time()
        old = [row["sandboxID"] for row in json.loads(answer.raw) if now - float(row["metadata"]["churn"]) > older_s]
        for sandbox_id in old:
            await self._kill(sandbox_id)
        self.outcome.swept += len(old)
        return len(old)


def _checked(answer: Answer | None, *statuses: int) -> Answer:
    if answer is None or answer.status not in statuses:
        raise WrongAnswerError("left" if answer is None else f"{answer.status} {answer.raw[:200]!r}")
    return answer


def grown(before: Holdings, after: Holdings, cycles: int) -> list[str]:
    """Values above their limit. Kernel objects have no tolerance, because an ended sandbox has none."""
    found = []
    for name, was in before.as_dict().items():
        slack = _SLACK.get(name, 0.0)
        if name.endswith("_rss_mib"):
            slack = _RSS_SLACK_MIB + _RSS_SLACK_KIB_A_CYCLE * cycles / 1024
        now = after.as_dict()[name]
        if now > was + slack:
            found.append(f"{name}: {was:g} before, {now:g} after {cycles} cycles, {slack:g} more allowed")
    return found


def settle(server: Server, seconds: float) -> Holdings:
    """Wait until the server's objects stay the same for three seconds, or the time is over."""
    deadline, since = time.monotonic() + seconds, time.monotonic()
    held = holdings(server)
    while time.monotonic() < deadline and time.monotonic() - since < 3:
        time.sleep(0.3)
        now = holdings(server)
        if _objects(now) != _objects(held):
            since = time.monotonic()
        held = now
    return held


def _objects(held: Holdings) -> tuple[int, ...]:
    return (held.mounts, held.network_namespaces, held.loop_devices, held.control_groups, held.processes)


def left_alive(server: Server) -> list[str]:
    """Faults in the census of the live server: sandboxes that were not created ahead, and leftovers."""
    census = json.loads(server.cli("census", "--json", check=False).stdout)
    alive = len(census["live"]) - census["made_ahead"]
    found = [f"{alive} sandboxes are alive that nobody holds"] if alive else []
    return found + [f"left over: {line}" for line in census["leftovers"]]


def judge(server: Server, before: Holdings, cycles: int, settle_s: float) -> tuple[Holdings, list[str]]:
    """The server's objects and their faults, after it had time to clean up."""
    deadline = time.monotonic() + settle_s
    while True:
        after = holdings(server)
        found = grown(before, after, cycles) or left_alive(server)
        if not found or time.monotonic() > deadline:
            return after, found
        time.sleep(0.5)


def churn(server: Server, plan: Plan, show: Callable[[str], None]) -> Outcome:
    """Warm up, count, churn, sweep, compare. Main thread only; leaves no sandbox on the server."""
    began = time.monotonic()
    clients = Churn(server, plan)

    async def phase(count: int, at_once: int, limit_s: float) -> None:
        await clients.cycles(count, at_once, limit_s, show)
        await clients.sweep(-1)

    crowd = _CROWD * plan.at_once
    show(f"warming up with {2 * crowd} cycles, {crowd} at once")
    asyncio.run(phase(2 * crowd, crowd, plan.limit_s / 3))
    outcome = clients.outcome
    outcome.done.clear()
    before = settle(server, plan.settle_s)
    show(f"{plan.cycles} cycles, {plan.at_once} at once, seed {plan.seed}, at most {clock(plan.limit_s)}")
    asyncio.run(phase(plan.cycles, plan.at_once, plan.limit_s))
    after, outcome.findings = judge(server, before, outcome.done.total(), plan.settle_s)
    outcome.before, outcome.after = before.as_dict(), after.as_dict()
    outcome.findings += [f"{count} times {text}" for text, count in outcome.errors.items()]
    outcome.took_s = time.monotonic() - began
    return outcome


def tell(outcome: Outcome) -> None:
    """Print the result."""
    for name, count in sorted(outcome.done.items()):
        print(f"{count:7} clients: {name}")
    print(f"{outcome.left:7} connections left by their client, {outcome.swept} sandboxes whose answer or kill was lost that way")
    print(f"{'':24}{'before':>10}{'after':>10}")
    for name, was in outcome.before.items():
        print(f"{name:24}{was:10g}{outcome.after[name]:10g}")
    for text in outcome.findings:
        print(f"WRONG: {text}")


def main() -> int:
    """Start a server and churn it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=10_000, help="creations (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=8, help="clients at once (default: %(default)s)")
    seed = random.SystemRandom().randrange(1 << 31)
    parser.add_argument("--seed", type=int, default=seed, help="of all random moments (default: a new one)")
    parser.add_argument("--limit-s", type=float, default=3600, help="ends the cycles wherever they are (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "churn.json")
    args = parser.parse_args()
    end_orderly()
    plan, outcome = Plan(args.cycles, args.at_once, args.seed, args.limit_s), Outcome()
    print(f"seed {plan.seed}", flush=True)
    try:
        with running_server("--log-level", "warning") as server:
            outcome = churn(server, plan, lambda text: print(text, flush=True))
    except AssertionError as error:  # the server's stop failed: its exit code or its census
        outcome.findings.append(f"after the stop: {error}")
    tell(outcome)
    done = outcome.done.total()
    if done < plan.cycles:
        print(f"the time was over after {done} of {plan.cycles} cycles")
    print(f"{'failed' if outcome.findings else 'nothing is left'}, {clock(outcome.took_s)} minutes, seed {plan.seed}")
    write_results(args.output, vars(outcome), plan=vars(plan))
    return int(bool(outcome.findings))


if __name__ == "__main__":
    sys.exit(main())
