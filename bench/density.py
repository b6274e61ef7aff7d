"""Many idle sandboxes: memory and processor time of each, whether all answer, and create and run times by their number."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from bench.machine import available_mib, busy_s, memory_monitor_cpu_s
from bench.rawclient import Made, RawClient, RefusedError
from bench.rows import Row, latency_row
from bench.serverside import charged_mib_each, cpu_by_group, instance_of
from bench.stats import Samples

from cloister.linux.cgroup import find_tree
from framework.server import Server

_SECTION = "density"
_SETTLE_S = 3.0
_AT_ONCE = 4
_RESERVE_MIB = 1536
"""Share of the host's memory below which no more sandboxes are created; the server itself would refuse soon after."""


@dataclass(frozen=True)
class Plan:
    """``levels`` are ascending; ``level_limit_s`` bounds the creations of each; ``watch_s`` is the time to measure idle sandboxes."""

    levels: tuple[int, ...]
    level_limit_s: float
    watch_s: float
    probes: int


class Density:
    """Fills a server level by level. The first sandbox does not count; it warms the template's pages."""

    def __init__(self, server: Server, plan: Plan, client: RawClient) -> None:
        self._server, self._plan, self._client = server, plan, client
        self._live: list[Made] = []
        self._free_mib = 0.0
        self.rows: list[Row] = []

    async def measure(self) -> None:
        """All levels, until one cannot be reached; then kills all sandboxes."""
        warm = await self._client.create()
        await self._client.run(warm)
        await asyncio.sleep(_SETTLE_S)
        self._free_mib = available_mib()
        self.rows.append(await self._probe(0))
        for level in self._plan.levels:
            reason = await self._fill(level)
            if reason:
                self.rows.append(Row(_SECTION, f"ours.idle_{level}", f"{level} idle sandboxes", {"live": len(self._live)}, reason=reason))
                break
            self.rows += await self._look(level)
        await self._empty([*self._live, warm])
        await asyncio.sleep(_SETTLE_S)
        numbers = {"not_back_mib": round(self._free_mib - available_mib(), 1)}
        name = "memory of the host that is not back after the last kill: what others took or gave meanwhile, or a leak"
        self.rows.append(Row(_SECTION, "ours.idle_drift", name, numbers))

    async def _fill(self, level: int) -> str:
        """Create up to ``level``; returns the reason if that failed, else an empty text."""
        deadline = time.monotonic() + self._plan.level_limit_s
        reasons: list[str] = []
        wanted = level - len(self._live)

        async def creator() -> None:
            nonlocal wanted
            while wanted > 0 and not reasons:
                if time.monotonic() > deadline:
                    reasons.append(f"not reached within {self._plan.level_limit_s:.0f} s")
                elif available_mib() < _RESERVE_MIB:
                    reasons.append(f"the host has less than {_RESERVE_MIB} MiB of memory left")
                else:
                    wanted -= 1
                    try:
                        self._live.append(await self._client.create())
                    except (RefusedError, TimeoutError, OSError) as error:
                        reasons.append(f"{type(error).__name__}: {error}")

        await asyncio.gather(*(creator() for _ in range(_AT_ONCE)))
        return f"{reasons[0]} ({len(self._live)} were alive)" if reasons else ""

    async def _look(self, level: int) -> list[Row]:
        await asyncio.sleep(_SETTLE_S)
        fresh_mib = (self._free_mib - available_mib()) / level
        failed = await self._answer_all()
        answering = level - len(failed)
        await asyncio.sleep(_SETTLE_S)
        used_mib = (self._free_mib - available_mib()) / level
        told = {"mib_each": round(used_mib, 2), "mib_each_before_runs": round(fresh_mib, 2)}
        if min(used_mib, fresh_mib) <= 0:
            failed.append("others on the machine freed more memory than all sandboxes took")
            told = {}
        numbers = {
            **told,
            "charged_mib_each": round(charged_mib_each(find_tree(instance_of(self._server))), 2),
            "answering": answering,
            "live": level,
        }
        row = Row(_SECTION, f"ours.idle_{level}", f"{level} idle sandboxes", numbers, note="; ".join(failed[:2]))
        return [row, await self._watch(level), await self._probe(level)]

    async def _answer_all(self) -> list[str]:
        """Run ``1+1`` in every live sandbox; returns the errors."""
        failed: list[str] = []
        queue = list(self._live)

        async def asker() -> None:
            while queue:
                made = queue.pop()
                try:
                    await self._client.run(made)
                except (RefusedError, TimeoutError, OSError) as error:
                    failed.append(f"{made.sandbox_id}: {type(error).__name__}: {error}"[:300])

        await asyncio.gather(*(asker() for _ in range(_AT_ONCE)))
        return failed

    async def _watch(self, level: int) -> Row:
        """Processor time without any request, in percent of one processor."""
        tree = find_tree(instance_of(self._server))
        monitor = memory_monitor_cpu_s()
        before, busy, began = cpu_by_group(self._server, tree), busy_s(), time.monotonic()
        await asyncio.sleep(self._plan.watch_s)
        used, taken = busy_s() - busy, time.monotonic() - began
        monitor = memory_monitor_cpu_s() - monitor
        after = cpu_by_group(self._server, tree)
        numbers = {f"{name}_percent": round(100 * (after[name] - before[name]) / taken, 2) for name in before}
        host = {"host_percent": round(100 * used / taken, 2), "kdamond_percent": round(100 * monitor / taken, 2)}
        name = f"{level} idle sandboxes: processor time over {self._plan.watch_s:.0f} s"
        return Row(_SECTION, f"ours.idle_cpu_{level}", name, {**host, **numbers})

    async def _probe(self, level: int) -> Row:
        """Create, first run and warm run beside this many live sandboxes."""
        samples: Samples = {"create": [], "total": [], "warm": []}
        for _ in range(self._plan.probes):
            began = time.perf_counter()
            made = await self._client.create()
            samples["create"].append((time.perf_counter() - began) * 1000)
            await self._client.run(made)
            samples["total"].append((time.perf_counter() - began) * 1000)
            for _ in range(5):
                began = time.perf_counter()
                await self._client.run(made)
                samples["warm"].append((time.perf_counter() - began) * 1000)
            await self._client.kill(made)
        warm, create = (latency_row("", "", "", samples[name]).numbers for name in ("warm", "create"))
        more = {"create_p50_ms": create["p50_ms"], "warm_p50_ms": warm["p50_ms"], "warm_p99_ms": warm["p99_ms"], "live": level}
        name = f"beside {level} live: create → first run_code (lean client)"
        return latency_row(_SECTION, f"ours.growth_{level}", name, samples["total"]) | more

    async def _empty(self, queue: list[Made]) -> None:
        count, began = len(queue), time.monotonic()

        async def killer() -> None:
            while queue:
                await self._client.kill(queue.pop())

        await asyncio.gather(*(killer() for _ in range(_AT_ONCE)))
        taken = time.monotonic() - began
        numbers = {"killed": count, "wall_s": round(taken, 2), "per_s": round(count / taken, 1)}
        self.rows.append(Row(_SECTION, "ours.kill_all", f"killing all of them, {_AT_ONCE} at once", numbers))


def measure_density(server: Server, plan: Plan) -> list[Row]:
    """All levels on one server, which should have no other sandbox. Reports the measured levels even if the time is over."""
    rows: list[Row] = []

    async def measure() -> None:
        async with RawClient(server.url, server.api_key, timeout_s=120) as client:
            density = Density(server, plan, client)
            density.rows = rows
            await density.measure()

    try:
        asyncio.run(measure())
    except TimeoutError as error:
        rows.append(Row(_SECTION, "", "the levels beyond", reason=str(error)))
    return rows
