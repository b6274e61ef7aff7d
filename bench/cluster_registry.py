"""The registry of sandboxes under many creations: api processes of their own on one store, and nodes that answer at once.

Each process does what a creation does to memory and store: the quota, the row, and the row again when the sandbox runs. One of them then
ends all sandboxes of lost nodes, as the leader does, and all wait until they have heard of it.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import queue
import resource
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from pathlib import Path
from random import Random
from typing import Any

import structlog

from cloister.cluster.placement import Need, NodeView, Room, choose
from cloister.control.quotas import Quotas, SandboxPolicy
from cloister.control.registry import Registry
from cloister.control.shared_registry import SharedRegistry
from cloister.errors import StoreUnreachableError
from cloister.ids import new_sandbox_id
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, Sandbox, SandboxRecord, SandboxState
from cloister.model.team import Team, TeamLimits
from cloister.store.opening import open_store

_FAR = 4e9
_TEAMS = 50
_ROOM = Room(mem_mib=1024, cpu_count=2.0, slots=1)
_LIMITS = TeamLimits(sandboxes=10**7)
_POLICY = SandboxPolicy(max_per_team=10**7)
_REPORT_S = 2.0
_PATIENCE_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """A run."""

    url: str | None
    """Of a PostgreSQL database; None: SQLite, and one process."""
    directory: Path
    processes: int
    sandboxes: int
    at_once: int = 16
    """Creations of one process at the same time."""
    nodes: int = 200
    lost: int = 20


@dataclass(kw_only=True)
class Report:
    """What one process saw. Times in seconds."""

    creations: int = 0
    created_s: float = 0.0
    times_ms: list[float] = field(default_factory=list)
    unanswered: int = 0
    """Creations that failed because the database was too slow."""
    ended: int = 0
    """Sandboxes of lost nodes that this process ended."""
    end_s: float = 0.0
    """From the loss until this process had heard of all ends; of the one that ended them, until they were stored."""
    cpu_s: float = 0.0
    """Of the creations."""
    rss_mib: float = 0.0
    by_node: dict[str, int] = field(default_factory=dict)
    """Live sandboxes before the loss, as this process saw them."""
    load_s: float = 0.0
    """To read all sandboxes at a start, with the full database."""


async def prepare(load: Load) -> None:
    """Make the teams."""
    (load.directory / "api").mkdir(parents=True, exist_ok=True)
    store = await open_store(load.directory, load.url)
    for number in range(_TEAMS):
        await store.teams.add_team(Team(team_id=f"team{number}", name=f"team {number}", created_at=1.0))
    await store.close()


def run(load: Load) -> Sequence[Report]:
    """Run all processes. The first report is of the process that ended the lost sandboxes."""
    asyncio.run(prepare(load))
    context = multiprocessing.get_context("spawn")
    barrier, reports = context.Barrier(load.processes), context.Queue()
    workers = [context.Process(target=_work, args=(load, number, barrier, reports)) for number in range(load.processes)]
    for worker in workers:
        worker.start()
    try:
        found = [_next(reports, workers) for _ in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    return [report for _, report in sorted(found, key=lambda pair: pair[0])]


def _next(reports: Any, workers: Sequence[Any]) -> tuple[int, Report]:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            found: tuple[int, Report] = reports.get(timeout=1.0)
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                break
        else:
            return found
    raise RuntimeError("a process of the simulation failed, or takes too long")


def _work(load: Load, number: int, barrier: Barrier, reports: Any) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    reports.put((number, asyncio.run(_Worker(load, number, barrier).run())))
    reports.close()
    reports.join_thread()


class _Worker:
    """One api process."""

    def __init__(self, load: Load, number: int, barrier: Barrier) -> None:
        self._load = load
        self._number = number
        self._barrier = barrier
        self._random = Random(number)
        self._report = Report()
        self._nodes: dict[str, NodeView] = {}

    async def run(self) -> Report:
        """Take part in all phases."""
        async with AsyncExitStack() as stack:
            store = await open_store(self._load.directory, self._load.url)
            stack.push_async_callback(store.close)
            registry = await self._open(store, stack)
            quotas = Quotas(registry, _POLICY, store.teams)
            await self._meet()
            await self._create(registry, quotas)
            await self._meet()
            await registry.catch_up()
            self._report.by_node = _count(registry)
            self._report.rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            await self._meet()
            await self._lose(registry)
            await self._meet()
            began = time.perf_counter()
            if self._number == 0:
                other = await open_store(self._load.directory, self._load.url)
                stack.push_async_callback(other.close)
                await self._open(other, stack)
                self._report.load_s = time.perf_counter() - began
            await self._meet()
        return self._report

    async def _open(self, store: Any, stack: AsyncExitStack) -> Registry:
        times = {"retention_s": 1e9, "paused_retention_s": 1e9}
        registry = Registry(store, **times) if store.sharing is None else SharedRegistry(store, store.sharing, **times)
        await registry.load()
        stack.push_async_callback(registry.close)
        return registry

    async def _meet(self) -> None:
        await asyncio.to_thread(self._barrier.wait, _PATIENCE_S)

    async def _create(self, registry: Registry, quotas: Quotas) -> None:
        each = self._load.sandboxes // self._load.processes
        left = iter(range(each))
        began, cpu = time.perf_counter(), time.process_time()
        reporting = asyncio.create_task(self._learn(registry))
        await asyncio.gather(*(self._client(registry, quotas, left) for _ in range(self._load.at_once)))
        reporting.cancel()
        self._report.creations = len(self._report.times_ms)
        self._report.created_s = time.perf_counter() - began
        self._report.cpu_s = time.process_time() - cpu

    async def _client(self, registry: Registry, quotas: Quotas, left: Any) -> None:
        for _ in left:
            began = time.perf_counter()
            try:
                await self._create_one(registry, quotas)
            except StoreUnreachableError:  # a client would get 503 and try again
                self._report.unanswered += 1
                continue
            self._report.times_ms.append((time.perf_counter() - began) * 1000)

    async def _create_one(self, registry: Registry, quotas: Quotas) -> None:
        team_id = f"team{self._random.randrange(_TEAMS)}"
        need = Need(room=_ROOM, runtime="namespace", template="base", team_id=team_id)
        node_id = choose(list(self._views(registry).values()), need, self._random)[0]
        self._nodes[node_id] = self._nodes[node_id].reserving(need)
        row = Sandbox(
            sandbox_id=new_sandbox_id(),
            team_id=team_id,
            template_id="base",
            template="base",
            state=SandboxState.CREATING,
            started_at=time.time(),
            end_at=_FAR,
            cpu_count=2.0,
            mem_mib=1024,
            disk_mib=1024,
            node_id=node_id,
        )
        reservation = quotas.check_creation(row, _LIMITS)
        registry.reserve(row)
        await registry.add(row, within=reservation)
        await registry.set_running(_record(row), node_id)

    def _views(self, registry: Registry) -> dict[str, NodeView]:
        if not self._nodes:
            self._nodes = self._recount(registry)
        return self._nodes

    async def _learn(self, registry: Registry) -> None:
        """Hear the nodes' reports, each some seconds."""
        while True:
            await asyncio.sleep(_REPORT_S)
            self._nodes = self._recount(registry)

    def _recount(self, registry: Registry) -> dict[str, NodeView]:
        """The nodes as they report themselves. Each has room for twice its share."""
        counts, share = _count(registry), 2 * self._load.sandboxes // self._load.nodes + 16
        return {
            node_id: NodeView(
                node_id=node_id,
                capacity=Room(mem_mib=share * 1024, cpu_count=share * 2, slots=share),
                reserved=Room(mem_mib=count * 1024, cpu_count=count * 2, slots=count),
                runtimes=frozenset({"namespace"}),
                layers=frozenset({"base"}),
            )
            for node_id in (f"n{number}" for number in range(self._load.nodes))
            for count in (counts.get(node_id, 0),)
        }

    async def _lose(self, registry: Registry) -> None:
        """The first process ends the sandboxes of lost nodes; the others wait until they hear of it."""
        lost = {f"n{number}" for number in range(self._load.lost)}
        began = time.perf_counter()
        rows = [row.sandbox_id for row in registry.all_live() if row.node_id in lost]
        if self._number == 0:
            tasks = [registry.end(one, EndReason.STOPPED, "its node does not answer") for one in rows]
            await asyncio.gather(*(task for task in tasks if task is not None))
            self._report.ended = len(rows)
        else:
            left, heard = set(rows), asyncio.Event()

            def note(sandbox_id: str) -> None:
                left.discard(sandbox_id)
                if not left:
                    heard.set()

            registry.on_end(note)
            left.intersection_update(one for one in rows if registry.peek(one) is not None)
            if left:
                await heard.wait()
        self._report.end_s = time.perf_counter() - began


def _count(registry: Registry) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in registry.all_live():
        counts[row.node_id or ""] = counts.get(row.node_id or "", 0) + 1
    return counts


def _record(row: Sandbox) -> SandboxRecord:
    return SandboxRecord(
        sandbox_id=row.sandbox_id,
        template="base",
        runtime="namespace",
        state=SandboxState.RUNNING,
        started_at=row.started_at,
        end_at=row.end_at,
        limits=Limits(),
    )


def cpu_of(pid: int) -> float:
    """Processor time of a process and of its children that ended, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(int(fields[index]) for index in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")
