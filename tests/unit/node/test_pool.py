"""The bookkeeping of sandboxes made ahead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from cloister.errors import NoCapacityError, TemplateNotFoundError
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxState
from cloister.node import pool as pool_module
from cloister.node.pool import Pool, Pooled, PoolSize, PoolSource
from cloister.runtime.base import RuntimeSandbox
from framework.waiting import turns


class Maker:
    """Makes and ends sandboxes that are nothing but names."""

    def __init__(self) -> None:
        self.build = "b1"
        self.made: list[str] = []
        self.ended: list[str] = []
        self.cut_off: list[str] = []
        self.fault: Exception | None = None
        self.faults: dict[str, Exception] = {}
        self.slow: dict[str, asyncio.Event] = {}
        """Templates whose sandboxes start only when the event is set."""
        self.stuck: dict[str, asyncio.Event] = {}
        """Templates whose sandboxes are made only when the event is set."""

    async def make(self, template: str) -> Pooled:
        """One more, or the fault that was set."""
        if fault := self.fault or self.faults.get(template):
            raise fault
        if (event := self.stuck.get(template)) is not None:
            await event.wait()
        self.made.append(f"{template}{len(self.made)}")
        record = SandboxRecord(
            sandbox_id=self.made[-1],
            template=template,
            runtime="namespace",
            state=SandboxState.CREATING,
            started_at=0.0,
            end_at=0.0,
            limits=Limits(),
        )
        return Pooled(record, cast("RuntimeSandbox", None), self.build)

    async def started(self, pooled: Pooled) -> None:
        """At once, unless it is slow; one that is cut off is gone."""
        if (event := self.slow.get(pooled.record.template)) is not None:
            try:
                await event.wait()
            except asyncio.CancelledError:
                self.cut_off.append(pooled.record.sandbox_id)
                raise

    async def end(self, pooled: Pooled) -> None:
        """Note that it was ended."""
        self.ended.append(pooled.record.sandbox_id)


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Maker:
    """A maker, and no waiting."""
    monkeypatch.setattr(pool_module, "_QUIET_S", 0.0)
    monkeypatch.setattr(pool_module, "_RETRY_S", (0.01, 0.2))
    monkeypatch.setattr(pool_module, "_IDLE_POLL_S", 0.001)
    return Maker()


def pool_of(maker: Maker, each: int = 2, always: tuple[str, ...] = ("t",), is_busy: Callable[[], bool] = lambda: False) -> Pool:
    """A pool on the maker."""
    make: Callable[[str], Awaitable[Pooled]] = maker.make
    return Pool(PoolSize(each, always), PoolSource(make=make, end=maker.end, is_busy=is_busy, started=maker.started))


async def settle(pool: Pool) -> asyncio.Task[Any]:
    """Let the pool fill itself."""
    task = asyncio.create_task(pool.run())
    await turns()
    return task


async def test_fills_itself_and_refills_after_a_claim(maker: Maker) -> None:
    """As many are ready as wanted; one that was taken is replaced and never given again."""
    pool = pool_of(maker)
    task = await settle(pool)
    assert maker.made == ["t0", "t1"]
    sandbox_id = pool.reserve("t", "b1")
    assert sandbox_id == "t0"
    assert pool.claim("t0") is not None
    assert pool.claim("t0") is None
    await turns()
    assert pool.ids() == {"t1", "t2"}
    task.cancel()


async def test_one_is_reserved_for_one_only(maker: Maker) -> None:
    """Two that ask at once get different ones, and the third none."""
    pool = pool_of(maker)
    task = await settle(pool)
    assert {pool.reserve("t", "b1"), pool.reserve("t", "b1")} == {"t0", "t1"}
    assert pool.reserve("t", "b1") is None
    task.cancel()


async def test_a_reservation_that_nobody_used_ends(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was reserved and not claimed is given to another after a while."""
    pool = pool_of(maker, each=1)
    task = await settle(pool)
    assert pool.reserve("t", "b1") == "t0"
    assert pool.reserve("t", "b1") is None
    monkeypatch.setattr(pool_module, "RESERVED_S", -1.0)
    assert pool.reserve("t", "b1") == "t0"
    task.cancel()


async def test_another_template_becomes_hot_by_being_asked_for(maker: Maker) -> None:
    """The first asker gets none, and then some are made."""
    pool = pool_of(maker, each=1)
    task = await settle(pool)
    assert pool.reserve("u", "b1") is None
    await turns()
    assert pool.reserve("u", "b1") == "u1"
    task.cancel()


async def test_sandboxes_of_an_older_build_are_ended(maker: Maker) -> None:
    """After a rebuild of the template the old ones are never given out, and are replaced."""
    pool = pool_of(maker, each=1)
    task = await settle(pool)
    maker.build = "b2"
    assert pool.reserve("t", "b2") is None
    await turns()
    assert maker.ended == ["t0"]
    assert pool.reserve("t", "b2") == "t1"
    task.cancel()


async def test_nothing_is_made_while_clients_wait(maker: Maker) -> None:
    """The machine belongs to creations that somebody waits for."""
    busy = [True]
    task = await settle(pool_of(maker, is_busy=lambda: busy[0]))
    assert maker.made == []
    busy[0] = False
    await turns()
    assert len(maker.made) == 2
    task.cancel()


async def test_a_failure_is_tried_again(maker: Maker) -> None:
    """A host that is full for now does not end the pool."""
    maker.fault = NoCapacityError("full")
    task = await settle(pool_of(maker))
    maker.fault = None
    async with asyncio.timeout(10):
        while len(maker.made) < 2:
            await turns(1)
    task.cancel()


async def test_drain_ends_all(maker: Maker) -> None:
    """A stop leaves none."""
    pool = pool_of(maker)
    task = await settle(pool)
    task.cancel()
    await pool.drain()
    assert sorted(maker.ended) == ["t0", "t1"]
    assert pool.ids() == set()


async def test_a_template_that_never_starts_holds_up_no_other(maker: Maker) -> None:
    """Whoever's start takes for ever, the others have theirs ready."""
    maker.slow["a"] = asyncio.Event()
    pool = pool_of(maker, each=1, always=("a", "b"))
    task = await settle(pool)
    assert pool.reserve("a", "b1") is None
    assert pool.reserve("b", "b1") is not None
    maker.slow["a"].set()
    await turns()
    assert pool.reserve("a", "b1") is not None
    task.cancel()


async def test_a_template_that_takes_long_to_be_made_holds_up_no_other(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its turn, and no more than that; a stop does not wait for it."""
    monkeypatch.setattr(pool_module, "_TURN_S", 0.01)
    maker.stuck["a"] = asyncio.Event()
    pool = pool_of(maker, each=1, always=("a", "b"))
    task = await settle(pool)
    assert pool.reserve("a", "b1") is None
    assert pool.reserve("b", "b1") is not None
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.done()


async def test_a_template_that_cannot_be_made_is_tried_ever_less(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its failures cost the others nothing, and come further and further apart."""
    monkeypatch.setattr(pool_module, "_RETRY_S", (0.01, 60.0))
    maker.faults["a"] = NoCapacityError("no")
    pool = pool_of(maker, each=1, always=("a", "b"))
    task = await settle(pool)
    assert pool.reserve("b", "b1") is not None
    await turns()
    assert pool._wanted["a"].failures == 2
    task.cancel()


async def test_a_dropped_template_is_forgotten(maker: Maker) -> None:
    """One that is not there any more is not tried again until somebody asks for it."""
    maker.faults["gone"] = TemplateNotFoundError("gone")
    pool = pool_of(maker, always=())
    task = await settle(pool)
    assert pool.reserve("gone", "b1") is None
    await turns()
    del maker.faults["gone"]
    await turns()
    assert maker.made == []
    task.cancel()


async def test_what_is_ready_of_a_dropped_build_is_ended_at_once(maker: Maker) -> None:
    """But for what somebody has reserved; what is only being started is not waited for, and no further one is made."""
    pool = pool_of(maker, each=2, always=("t",))
    task = await settle(pool)
    maker.build = "b2"
    pool.want("b2")
    await turns()
    reserved = pool.reserve("b2", "b2")
    maker.slow["b3"], maker.build = asyncio.Event(), "b3"
    pool.want("b3")
    await turns()
    assert (pool.ids(), maker.made) == ({"t0", "t1", "b22", "b23"}, ["t0", "t1", "b22", "b23", "b34"])
    pool.drop("b2")
    pool.drop("b3")
    await turns()
    assert (pool.ids(), maker.ended, maker.cut_off) == ({"t0", "t1", reserved}, ["b23"], ["b34"])
    assert len(maker.made) == 5
    task.cancel()


@pytest.mark.parametrize("steps", range(8))
async def test_what_is_made_at_the_moment_of_a_drop_is_ended(maker: Maker, steps: int) -> None:
    """Whichever step of the making the drop falls into, and a stop right behind it."""
    maker.stuck["b"] = asyncio.Event()
    maker.build = "b"
    pool = pool_of(maker, each=1, always=())
    task = await settle(pool)
    pool.want("b")
    await turns()
    maker.stuck["b"].set()
    for _ in range(steps):
        await asyncio.sleep(0)
    pool.drop("b")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await pool.drain()
    assert (pool.ids(), maker.ended) == (set(), maker.made)


async def test_what_nobody_asks_for_any_more_is_ended(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its zone can be given back; what is reserved, and templates that are always wanted, stay."""
    monkeypatch.setattr(pool_module, "_ROUND_S", 0.02)
    pool = pool_of(maker, each=1)
    task = await settle(pool)
    pool.want("u")
    await turns()
    assert pool.ids() == {"t0", "u1"}
    monkeypatch.setattr(pool_module, "HOT_S", 0.0)
    await turns(60)
    assert (pool.ids(), maker.ended) == ({"t0"}, ["u1"])
    task.cancel()


async def test_only_the_templates_asked_for_last_are_kept_ready(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds a zone, and those are few."""
    monkeypatch.setattr(pool_module, "_MOST_WANTED", 3)
    pool = pool_of(maker, each=1)
    task = await settle(pool)
    for number in range(6):
        pool.want(f"u{number}")
        await turns(15)
    await turns()
    assert {sandbox_id[:2] for sandbox_id in pool.ids()} == {"t0", "u3", "u4", "u5"}
    task.cancel()


async def test_fill_waits_for_the_first_one(maker: Maker) -> None:
    """A template that was just built is ready when its build is; one that cannot be made is not waited for."""
    pool = pool_of(maker, each=2, always=())
    task = await settle(pool)
    assert await pool.fill("new", 5.0)
    assert pool.reserve("new", "b1") is not None
    maker.faults["bad"] = NoCapacityError("no")
    began = time.monotonic()
    assert not await pool.fill("bad", 5.0)
    assert time.monotonic() - began < 2.0
    task.cancel()


async def test_the_template_asked_for_longest_ago_gives_way(maker: Maker) -> None:
    """One that is always wanted comes last, what is reserved stays, and the asker's own is not touched."""
    pool = pool_of(maker, each=1)
    task = await settle(pool)
    for key in ("u", "v", "w"):
        assert await pool.fill(key, 5.0)
    assert pool.reserve("u", "b1") is not None
    assert [pooled.key for pooled in pool.give_way(but="v")] == ["w"]
    assert [pooled.key for pooled in pool.give_way(but="v")] == ["t"]
    assert pool.give_way(but="v") == []
    task.cancel()
