"""Several registries on one PostgreSQL database, as several api processes have them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cloister.control.quotas import Quotas, SandboxPolicy
from cloister.control.shared_registry import SharedRegistry
from cloister.errors import CloisterError, QuotaExceededError, RateLimitedError, SandboxNotFoundError, StoreUnreachableError
from cloister.model.event import EventType
from cloister.model.lifecycle import Pause, PauseKind
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, Sandbox, SandboxRecord, SandboxState
from cloister.model.team import Team, TeamLimits
from cloister.store.postgres import PostgresStore
from framework.postgres import Postgres
from framework.waiting import eventually_async, turns

PAUSE = Pause(kind=PauseKind.FROZEN, at=5.0)
FAR = 4e9


def row(number: int, state: SandboxState = SandboxState.RUNNING, **more: Any) -> Sandbox:
    """A sandbox."""
    fields: dict[str, Any] = {"template_id": "base", "template": "base", "cpu_count": 1.0, "mem_mib": 8, "disk_mib": 8, "end_at": FAR}
    return Sandbox(sandbox_id=f"s{number:019}", team_id="t1", state=state, started_at=1.0, **{**fields, **more})


@dataclass
class Process:
    """The parts of an api process."""

    store: PostgresStore
    registry: SharedRegistry
    quotas: Quotas

    async def sees(self, sandbox_id: str) -> Sandbox | None:
        """The live sandbox after catching up."""
        await self.registry.catch_up()
        return self.registry.live(sandbox_id)

    async def create(self, wanted: Sandbox, limits: TeamLimits) -> None:
        """Add a sandbox as the use case does."""
        reservation = self.quotas.check_creation(wanted, limits)
        self.registry.reserve(wanted)
        await self.registry.add(wanted, within=reservation)


class Lab:
    """Processes on one database. The team of all sandboxes is there."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self._stack = stack

    async def process(self) -> Process:
        """Start another one."""
        store = await PostgresStore.open(self.url)
        self._stack.push_async_callback(store.close)
        registry = SharedRegistry(store, store.sharing, retention_s=1e9, paused_retention_s=1e9)
        await registry.load()
        self._stack.push_async_callback(registry.close)
        return Process(store, registry, Quotas(registry, SandboxPolicy(), store.teams))


@pytest.fixture
async def lab(postgres: Postgres) -> AsyncIterator[Lab]:
    """No process yet."""
    url = postgres.new_database()
    async with AsyncExitStack() as stack:
        store = await PostgresStore.open(url)
        await store.teams.add_team(Team(team_id="t1", name="one", created_at=1.0))
        await store.close()
        yield Lab(url, stack)


async def test_changes_of_one_process_are_seen_by_the_other(lab: Lab) -> None:
    """A sandbox that is made, prolonged, paused, resumed and ended, each time at the other's next look; callbacks are called there."""
    one, two = await lab.process(), await lab.process()
    unreachable: list[str] = []
    two.registry.on_unreachable(unreachable.append)
    made = row(1, SandboxState.CREATING, idempotency_key="key")
    await one.registry.add(made)
    assert (await two.sees(made.sandbox_id)) == made
    assert two.registry.find_by_key("t1", "key") == made
    await one.registry.set_running(_record(made), "node_1")
    assert (await two.sees(made.sandbox_id)) == replace(made, state=SandboxState.RUNNING, node_id="node_1", runtime="r", version=2)
    await two.registry.set_end(made.sandbox_id, FAR + 5)
    seen = await one.sees(made.sandbox_id)
    assert seen is not None
    assert seen.end_at == FAR + 5
    await one.registry.set_paused(made.sandbox_id, PAUSE)
    seen = await two.sees(made.sandbox_id)
    assert seen is not None
    assert (seen.state, seen.pause, unreachable) == (SandboxState.PAUSED, PAUSE, [made.sandbox_id])
    task = one.registry.end(made.sandbox_id, EndReason.KILLED)
    assert task is not None
    await task
    assert await two.sees(made.sandbox_id) is None
    ended = two.registry.ended(made.sandbox_id)
    assert ended is not None
    assert ended.end_reason is EndReason.KILLED
    assert one.registry.use_of("t1") == two.registry.use_of("t1")
    assert two.registry.find_by_key("t1", "key") is None


def _record(made: Sandbox) -> SandboxRecord:
    limits = Limits(cpu_count=1.0, mem_mib=8, disk_mib=8)
    return SandboxRecord(
        sandbox_id=made.sandbox_id, template="base", runtime="r", state=SandboxState.RUNNING, started_at=1.0, end_at=FAR, limits=limits
    )


async def test_writers_at_the_same_moment_lose_no_change(lab: Lab) -> None:
    """Each process changes another field of one row, again and again, without looking: both changes last."""
    one, two = await lab.process(), await lab.process()
    await one.registry.add(row(1))
    sandbox_id = row(1).sandbox_id
    await two.registry.catch_up()
    for number in range(10):
        await asyncio.gather(one.registry.set_end(sandbox_id, FAR + number), two.registry.set_node(sandbox_id, f"node_{number}"))
        for process in (one, two):
            seen = await process.sees(sandbox_id)
            assert seen is not None
            assert (seen.end_at, seen.node_id) == (FAR + number, f"node_{number}")


async def test_an_end_that_all_processes_hear_is_stored_once(lab: Lab) -> None:
    """The node tells every process of it; there is one event, and a later change fails as for a sandbox that ended."""
    processes = [await lab.process() for _ in range(3)]
    await processes[0].registry.add(row(1))
    for process in processes:
        await process.registry.catch_up()
    tasks = [process.registry.end(row(1).sandbox_id, EndReason.EXPIRED) for process in processes]
    await asyncio.gather(*(task for task in tasks if task is not None))
    events = await processes[0].store.events.list_events("t1", sandbox_id=row(1).sandbox_id, types=(), offset=0, limit=9, oldest_first=True)
    assert [event.type for event in events] == [EventType.KILLED]
    with pytest.raises(SandboxNotFoundError):
        await processes[1].registry.set_paused(row(1).sandbox_id, PAUSE)


async def test_a_team_gets_no_more_places_by_several_processes(lab: Lab) -> None:
    """Of creations and resumes at the same moment in two processes exactly as many succeed as the limit has places."""
    one, two = await lab.process(), await lab.process()
    limits = TeamLimits(sandboxes=5)
    paused = [row(number, SandboxState.PAUSED, pause=PAUSE) for number in range(4)]
    for wanted in paused:
        await one.registry.add(wanted)
    await two.registry.catch_up()

    async def resume(process: Process, wanted: Sandbox) -> None:
        reservation = process.quotas.check_resume(wanted, limits)
        process.registry.set_resuming(wanted.sandbox_id)
        try:
            await process.registry.hold(wanted.sandbox_id, reservation)
        except CloisterError:
            process.registry.cancel_resume(wanted.sandbox_id)
            raise

    works = [process.create(row(10 * number + index), limits) for number, process in ((1, one), (2, two)) for index in range(4)]
    works += [resume(one if index % 2 else two, wanted) for index, wanted in enumerate(paused)]
    results = await asyncio.gather(*works, return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [QuotaExceededError] * 7
    for process in (one, two):
        await process.registry.close()
    for process in (one, two):
        await process.registry.catch_up()
        assert process.registry.use_of("t1").sandboxes == 5


async def test_a_teams_rate_holds_in_all_processes(lab: Lab) -> None:
    """Two processes together give a team no more creations in a second than one."""
    processes = [await lab.process(), await lab.process()]
    limits = TeamLimits(creations_per_s=3)
    works = [process.create(row(10 * number + index), limits) for number, process in enumerate(processes) for index in range(3)]
    results = await asyncio.gather(*works, return_exceptions=True)
    refused = [result for result in results if result is not None]
    assert {type(result) for result in refused} == {RateLimitedError}
    assert 2 <= len(refused) <= 3, "three places, and what a slow machine adds meanwhile"


async def test_one_process_leads_and_another_follows_it(lab: Lab) -> None:
    """When the leader ends, a process that is left leads and is told so."""
    one = await lab.process()
    await eventually_async(lambda: one.registry.is_leader)
    two = await lab.process()
    told: list[bool] = []
    two.registry.on_due(lambda: told.append(two.registry.is_leader))
    await two.registry.catch_up()
    assert not two.registry.is_leader
    await one.store.sharing.close()
    await eventually_async(lambda: two.registry.is_leader and told[-1:] == [True])
    assert not one.registry.is_leader


async def test_creations_of_others_are_known_while_their_process_lives(lab: Lab) -> None:
    """A process can tell a creation that goes on from one whose process is gone."""
    one, two = await lab.process(), await lab.process()
    await one.create(row(1, SandboxState.CREATING), TeamLimits())
    await one.create(row(2, SandboxState.CREATING), TeamLimits())
    await one.registry.set_running(_record(row(2)), "node_1")
    assert await two.registry.others_creations() == [row(1).sandbox_id]
    assert await one.registry.others_creations() == []
    await one.store.sharing.close()

    async def none() -> bool:
        return not await two.registry.others_creations()

    while not await none():
        pass


async def test_blocks_of_one_name_exclude_each_other(lab: Lab) -> None:
    """No two processes compare the same node at the same time."""
    processes = [await lab.process(), await lab.process()]
    inside = most = 0

    async def enter(process: Process) -> None:
        nonlocal inside, most
        async with process.registry.alone("node"):
            inside += 1
            most = max(most, inside)
            await process.registry.catch_up()
            inside -= 1

    await asyncio.gather(*(enter(process) for process in processes * 4))
    assert most == 1


async def test_reads_go_on_while_the_database_is_away(lab: Lab, postgres: Postgres) -> None:
    """Memory stays, changes fail as the store, an end that happened meanwhile is stored afterwards, and news are learnt again."""
    one, two = await lab.process(), await lab.process()
    for number in (1, 2):
        await one.registry.add(row(number))
    await two.registry.catch_up()
    postgres.kill()
    try:
        assert two.registry.live(row(1).sandbox_id) == row(1)
        with pytest.raises(StoreUnreachableError):
            await two.registry.add(row(3))
        with pytest.raises(StoreUnreachableError):
            await two.registry.catch_up()
        ending = one.registry.end(row(1).sandbox_id, EndReason.CRASHED)
        assert ending is not None
        await ending
    finally:
        postgres.start()

    async def healed() -> bool:
        try:
            return await two.sees(row(1).sandbox_id) is None and await two.sees(row(2).sandbox_id) == row(2)
        except StoreUnreachableError:
            return False

    async with asyncio.timeout(60):
        while not await healed():
            await turns(5)
    ended = two.registry.ended(row(1).sandbox_id)
    assert ended is not None
    assert ended.end_reason is EndReason.CRASHED
    await two.registry.add(row(4))
    assert await one.sees(row(4).sandbox_id) == row(4)
