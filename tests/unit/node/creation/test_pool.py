"""The bookkeeping of sandboxes made ahead."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.errors import NoCapacityError, RuntimeFailedError, TemplateNotFoundError
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxState
from cloister.node.creation import pool as pool_module
from cloister.node.creation.pool import Pool, PoolKey, PoolSize, ReadySandbox
from cloister.runtime.base import RuntimeSandbox
from framework.waiting import turns


class Source:
    """Makes and ends sandboxes that are only names and pipes."""

    def __init__(self) -> None:
        self.build = "b1"
        self.busy = False
        self.pipes: dict[str, tuple[int, int]] = {}
        self.unkillable: set[str] = set()
        self.made: list[str] = []
        self.ended: list[str] = []
        self.cut_off: list[str] = []
        self.fault: Exception | None = None
        self.faults: dict[str, Exception] = {}
        self.slow: dict[str, asyncio.Event] = {}
        """Templates whose sandboxes start only when the event is set."""
        self.stuck: dict[str, asyncio.Event] = {}
        """Templates whose sandboxes are made only when the event is set."""

    async def prepare(self, key: PoolKey) -> None:
        """Needs no time."""

    async def make_ahead(self, key: PoolKey) -> ReadySandbox:
        """One more, or the fault that was set."""
        template = key.template
        if fault := self.fault or self.faults.get(template):
            raise fault
        if (event := self.stuck.get(template)) is not None:
            await event.wait()
        sandbox_id = f"{template}{len(self.made)}"
        self.made.append(sandbox_id)
        record = SandboxRecord(
            sandbox_id=sandbox_id,
            template=template,
            runtime="namespace",
            state=SandboxState.CREATING,
            started_at=0.0,
            end_at=0.0,
            limits=Limits(),
        )
        self.pipes[sandbox_id] = os.pipe()
        sandbox = cast("RuntimeSandbox", SimpleNamespace(pidfd=self.pipes[sandbox_id][0]))
        return ReadySandbox(key=key, build_id=self.build, zone_key="z", record=record, sandbox=sandbox)

    async def wait_ready(self, ready: ReadySandbox) -> None:
        """At once, unless it is slow; one that is cut off is gone."""
        if (event := self.slow.get(ready.record.template)) is not None:
            try:
                await event.wait()
            except asyncio.CancelledError:
                self.cut_off.append(ready.sandbox_id)
                raise

    async def discard_ready(self, ready: ReadySandbox) -> None:
        """Note that it was ended, or fail."""
        if ready.sandbox_id in self.unkillable:
            raise RuntimeFailedError("it did not end after SIGKILL")
        self.ended.append(ready.sandbox_id)

    def is_busy(self) -> bool:
        """As the test says."""
        return self.busy

    def die(self, sandbox_id: str) -> None:
        """The sandbox ends by itself."""
        os.write(self.pipes[sandbox_id][1], b"x")

    def close(self) -> None:
        """Close the pipes."""
        for pipe in self.pipes.values():
            for fd in pipe:
                os.close(fd)


@pytest.fixture
async def source(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Source]:
    """A source, and no waiting."""
    monkeypatch.setattr(pool_module, "_QUIET_S", 0.0)
    monkeypatch.setattr(pool_module, "_RETRY_S", (0.01, 0.2))
    monkeypatch.setattr(pool_module, "_IDLE_POLL_S", 0.001)
    source = Source()
    yield source
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await turns(3)
    source.close()


def pool_of(source: Source, each: int = 2, always: tuple[str, ...] = ("t",)) -> Pool:
    """A pool on the source."""
    return Pool(PoolSize(each, always), source)


def ids(pool: Pool) -> set[str]:
    """The sandboxes that are ready."""
    return set(pool._ready)


async def settle(pool: Pool) -> asyncio.Task[Any]:
    """Let the pool fill itself."""
    task = asyncio.create_task(pool.run())
    await turns()
    return task


async def test_fills_itself_and_refills_after_a_claim(source: Source) -> None:
    """As many are ready as wanted; one that was taken is replaced and never given again."""
    pool = pool_of(source)
    task = await settle(pool)
    assert source.made == ["t0", "t1"]
    sandbox_id = pool.reserve(PoolKey("t"), "b1")
    assert sandbox_id == "t0"
    assert pool.claim("t0") is not None
    assert pool.claim("t0") is None
    await turns()
    assert ids(pool) == {"t1", "t2"}
    task.cancel()


async def test_one_is_reserved_for_one_only(source: Source) -> None:
    """Two that ask at once get different ones, and the third none."""
    pool = pool_of(source)
    task = await settle(pool)
    assert {pool.reserve(PoolKey("t"), "b1"), pool.reserve(PoolKey("t"), "b1")} == {"t0", "t1"}
    assert pool.reserve(PoolKey("t"), "b1") is None
    task.cancel()


async def test_a_reservation_that_nobody_used_ends(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reserved sandbox that is not claimed becomes free after a while."""
    pool = pool_of(source, each=1)
    task = await settle(pool)
    assert pool.reserve(PoolKey("t"), "b1") == "t0"
    assert pool.reserve(PoolKey("t"), "b1") is None
    monkeypatch.setattr(pool_module, "RESERVED_S", -1.0)
    assert pool.reserve(PoolKey("t"), "b1") == "t0"
    task.cancel()


async def test_another_template_becomes_hot_by_being_asked_for(source: Source) -> None:
    """The first asker gets none, and then some are made."""
    pool = pool_of(source, each=1)
    task = await settle(pool)
    assert pool.reserve(PoolKey("u"), "b1") is None
    await turns()
    assert pool.reserve(PoolKey("u"), "b1") == "u1"
    task.cancel()


async def test_sandboxes_of_an_older_build_are_ended(source: Source) -> None:
    """After a rebuild of the template the old ones are never given out, and are replaced."""
    pool = pool_of(source, each=1)
    task = await settle(pool)
    source.build = "b2"
    assert pool.reserve(PoolKey("t"), "b2") is None
    await turns()
    assert source.ended == ["t0"]
    assert pool.reserve(PoolKey("t"), "b2") == "t1"
    task.cancel()


async def test_nothing_is_made_while_clients_wait(source: Source) -> None:
    """Creations for waiting clients have priority."""
    source.busy = True
    task = await settle(pool_of(source))
    assert source.made == []
    source.busy = False
    await turns()
    assert len(source.made) == 2
    task.cancel()


async def test_a_failure_is_tried_again(source: Source) -> None:
    """A host that is full for now does not end the pool."""
    source.fault = NoCapacityError("full")
    task = await settle(pool_of(source))
    source.fault = None
    async with asyncio.timeout(10):
        while len(source.made) < 2:
            await turns(1)
    task.cancel()


async def test_drain_ends_all(source: Source) -> None:
    """A stop leaves none."""
    pool = pool_of(source)
    task = await settle(pool)
    task.cancel()
    await pool.drain()
    assert sorted(source.ended) == ["t0", "t1"]
    assert ids(pool) == set()


async def test_one_that_dies_is_replaced(source: Source) -> None:
    """No creation gets it, what it held is given back, and another is made."""
    pool = pool_of(source)
    task = await settle(pool)
    source.die("t0")
    await turns()
    assert (ids(pool), source.ended) == ({"t1", "t2"}, ["t0"])
    assert pool.claim("t0") is None
    task.cancel()


async def test_a_reserved_one_that_dies_is_its_creations_to_end(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool must not end it later: by then its id is that of the sandbox that the creation makes instead."""
    pool = pool_of(source, each=1)
    task = await settle(pool)
    assert pool.reserve(PoolKey("t"), "b1") == "t0"
    monkeypatch.setattr(pool_module, "_QUIET_S", 60.0)
    source.die("t0")
    await turns()
    claimed = pool.claim("t0")
    assert claimed is not None
    assert (claimed.sandbox_id, pool.claim("t0")) == ("t0", None)
    task.cancel()
    await pool.drain()
    assert source.ended == []


async def test_one_that_does_not_end_keeps_the_pool_from_nothing(source: Source) -> None:
    """The pool goes on making others, and a stop is not held up; the node's sweep ends it."""
    pool = pool_of(source)
    task = await settle(pool)
    source.unkillable = {"t0", "t1"}
    source.die("t0")
    await turns()
    assert ids(pool) == {"t1", "t2"}
    task.cancel()
    await pool.drain()
    assert (ids(pool), source.ended) == (set(), ["t2"])


async def test_a_template_that_never_starts_holds_up_no_other(source: Source) -> None:
    """Whoever's start takes for ever, the others have theirs ready."""
    source.slow["a"] = asyncio.Event()
    pool = pool_of(source, each=1, always=("a", "b"))
    task = await settle(pool)
    assert pool.reserve(PoolKey("a"), "b1") is None
    assert pool.reserve(PoolKey("b"), "b1") is not None
    source.slow["a"].set()
    await turns()
    assert pool.reserve(PoolKey("a"), "b1") is not None
    task.cancel()


async def test_a_template_that_takes_long_to_be_made_holds_up_no_other(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its turn, and no more than that; a stop does not wait for it."""
    monkeypatch.setattr(pool_module, "_TURN_S", 0.01)
    source.stuck["a"] = asyncio.Event()
    pool = pool_of(source, each=1, always=("a", "b"))
    task = await settle(pool)
    assert pool.reserve(PoolKey("a"), "b1") is None
    assert pool.reserve(PoolKey("b"), "b1") is not None
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.done()


async def test_a_template_that_cannot_be_made_is_tried_ever_less(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its failures cost the others nothing, and come further and further apart."""
    monkeypatch.setattr(pool_module, "_RETRY_S", (0.01, 60.0))
    source.faults["a"] = NoCapacityError("no")
    pool = pool_of(source, each=1, always=("a", "b"))
    task = await settle(pool)
    assert pool.reserve(PoolKey("b"), "b1") is not None
    await turns()
    assert pool._hot[PoolKey("a")].failures == 2
    task.cancel()


async def test_a_dropped_template_is_forgotten(source: Source) -> None:
    """A template that no longer exists is not tried again until a client requests it."""
    source.faults["gone"] = TemplateNotFoundError("gone")
    pool = pool_of(source, always=())
    task = await settle(pool)
    assert pool.reserve(PoolKey("gone"), "b1") is None
    await turns()
    del source.faults["gone"]
    await turns()
    assert source.made == []
    task.cancel()


async def test_what_is_ready_of_a_dropped_build_is_ended_at_once(source: Source) -> None:
    """Except reserved ones; the pool does not wait for starting ones, and creates no further one."""
    pool = pool_of(source, each=2, always=("t",))
    task = await settle(pool)
    source.build = "b2"
    pool.heat(PoolKey("b2"))
    await turns()
    reserved = pool.reserve(PoolKey("b2"), "b2")
    source.slow["b3"], source.build = asyncio.Event(), "b3"
    pool.heat(PoolKey("b3"))
    await turns()
    assert (ids(pool), source.made) == ({"t0", "t1", "b22", "b23"}, ["t0", "t1", "b22", "b23", "b34"])
    pool.drop_build("b2")
    pool.drop_build("b3")
    await turns()
    assert (ids(pool), source.ended, source.cut_off) == ({"t0", "t1", reserved}, ["b23"], ["b34"])
    assert len(source.made) == 5
    task.cancel()


@pytest.mark.parametrize("steps", range(8))
async def test_what_is_made_at_the_moment_of_a_drop_is_ended(source: Source, steps: int) -> None:
    """Whichever step of the making the drop falls into, and a stop right behind it."""
    source.stuck["b"] = asyncio.Event()
    source.build = "b"
    pool = pool_of(source, each=1, always=())
    task = await settle(pool)
    pool.heat(PoolKey("b"))
    await turns()
    source.stuck["b"].set()
    for _ in range(steps):
        await asyncio.sleep(0)
    pool.drop_build("b")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await pool.drain()
    assert (ids(pool), source.ended) == (set(), source.made)


async def test_what_nobody_asks_for_any_more_is_ended(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its zone can be given back; what is reserved, and templates that are always wanted, stay."""
    monkeypatch.setattr(pool_module, "_ROUND_S", 0.02)
    pool = pool_of(source, each=1)
    task = await settle(pool)
    pool.heat(PoolKey("u"))
    await turns()
    assert ids(pool) == {"t0", "u1"}
    monkeypatch.setattr(pool_module, "HOT_S", 0.0)
    await turns(60)
    assert (ids(pool), source.ended) == ({"t0"}, ["u1"])
    task.cancel()


async def test_only_the_templates_asked_for_last_are_kept_ready(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds a zone, and those are few."""
    monkeypatch.setattr(pool_module, "_MAX_HOT", 3)
    pool = pool_of(source, each=1)
    task = await settle(pool)
    for number in range(6):
        pool.heat(PoolKey(f"u{number}"))
        await turns(15)
    await turns()
    assert {sandbox_id[:2] for sandbox_id in ids(pool)} == {"t0", "u3", "u4", "u5"}
    task.cancel()


async def test_fill_waits_for_the_first_one(source: Source) -> None:
    """A template that was just built is ready when its build is; one that cannot be made is not waited for."""
    pool = pool_of(source, each=2, always=())
    task = await settle(pool)
    assert await pool.wait_filled(PoolKey("new"), 5.0)
    assert pool.reserve(PoolKey("new"), "b1") is not None
    source.faults["bad"] = NoCapacityError("no")
    began = time.monotonic()
    assert not await pool.wait_filled(PoolKey("bad"), 60.0)
    assert time.monotonic() - began < 30
    task.cancel()


async def test_the_template_asked_for_longest_ago_is_evicted(source: Source) -> None:
    """One that is always wanted comes last, what is reserved stays, and the asker's own is not touched."""
    pool = pool_of(source, each=1)
    task = await settle(pool)
    for key in ("u", "v", "w"):
        assert await pool.wait_filled(PoolKey(key), 5.0)
    assert pool.reserve(PoolKey("u"), "b1") is not None
    assert [ready.key for ready in pool.evict_coldest(keep=PoolKey("v"))] == [PoolKey("w")]
    assert [ready.key for ready in pool.evict_coldest(keep=PoolKey("v"))] == [PoolKey("t")]
    assert pool.evict_coldest(keep=PoolKey("v")) == []
    task.cancel()


async def test_a_template_that_is_always_hot_and_was_not_found_is_evicted(source: Source) -> None:
    """Its sandboxes give way like any others."""
    pool = pool_of(source)
    task = await settle(pool)
    task.cancel()
    await turns(3)
    source.fault = TemplateNotFoundError("it was removed")
    assert pool.claim("t0") is not None
    pool._filling[PoolKey("t")] = asyncio.create_task(pool._fill(PoolKey("t")))
    await turns(3)
    assert PoolKey("t") not in pool._hot
    assert [ready.sandbox_id for ready in pool.evict_coldest(PoolKey("u"))] == ["t1"]


async def test_what_is_made_for_a_team_is_for_it_alone(source: Source) -> None:
    """Another team, and any team, get none of it, nor it of theirs; a dropped build is dropped for all."""
    pool = pool_of(source, each=1, always=())
    task = await settle(pool)
    for team in ("one", "two", ""):
        assert pool.reserve(PoolKey("b1", team), "b1") is None
    await turns(60)
    given = {team: pool.reserve(PoolKey("b1", team), "b1") for team in ("one", "two", "")}
    assert None not in given.values()
    assert len(set(given.values())) == 3
    assert {ready.key.team_id for ready in pool._ready.values()} == {"one", "two", ""}
    assert pool.reserve(PoolKey("b1", "one"), "b1") is None
    pool.drop_build("b1")
    assert not pool._hot
    task.cancel()
