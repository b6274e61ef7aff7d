"""The bookkeeping of sandboxes made ahead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from cloister.errors import NoCapacityError
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxState
from cloister.node import pool as pool_module
from cloister.node.pool import Pool, Pooled, PoolSize
from cloister.runtime.base import RuntimeSandbox


class Maker:
    """Makes and ends sandboxes that are nothing but names."""

    def __init__(self) -> None:
        self.build = "b1"
        self.made: list[str] = []
        self.ended: list[str] = []
        self.fault: Exception | None = None

    async def make(self, template: str) -> Pooled:
        """One more, or the fault that was set."""
        if self.fault is not None:
            raise self.fault
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

    async def end(self, pooled: Pooled) -> None:
        """Note that it was ended."""
        self.ended.append(pooled.record.sandbox_id)


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Maker:
    """A maker, and no waiting."""
    monkeypatch.setattr(pool_module, "_QUIET_S", 0.0)
    monkeypatch.setattr(pool_module, "_RETRY_S", 0.01)
    monkeypatch.setattr(pool_module, "_IDLE_POLL_S", 0.001)
    return Maker()


def pool_of(maker: Maker, each: int = 2, always: tuple[str, ...] = ("t",), is_busy: Callable[[], bool] = lambda: False) -> Pool:
    """A pool on the maker."""
    make: Callable[[str], Awaitable[Pooled]] = maker.make
    return Pool(PoolSize(each, always), make=make, end=maker.end, is_busy=is_busy)


async def settle(pool: Pool) -> asyncio.Task[Any]:
    """Let the pool fill itself."""
    task = asyncio.create_task(pool.run())
    await asyncio.sleep(0.05)
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
    await asyncio.sleep(0.05)
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
    await asyncio.sleep(0.05)
    assert pool.reserve("u", "b1") == "u1"
    task.cancel()


async def test_sandboxes_of_an_older_build_are_ended(maker: Maker) -> None:
    """After a rebuild of the template the old ones are never given out, and are replaced."""
    pool = pool_of(maker, each=1)
    task = await settle(pool)
    maker.build = "b2"
    assert pool.reserve("t", "b2") is None
    await asyncio.sleep(0.05)
    assert maker.ended == ["t0"]
    assert pool.reserve("t", "b2") == "t1"
    task.cancel()


async def test_nothing_is_made_while_clients_wait(maker: Maker) -> None:
    """The machine belongs to creations that somebody waits for."""
    busy = [True]
    task = await settle(pool_of(maker, is_busy=lambda: busy[0]))
    assert maker.made == []
    busy[0] = False
    await asyncio.sleep(0.05)
    assert len(maker.made) == 2
    task.cancel()


async def test_a_failure_is_tried_again(maker: Maker) -> None:
    """A host that is full for now does not end the pool."""
    maker.fault = NoCapacityError("full")
    task = await settle(pool_of(maker))
    maker.fault = None
    await asyncio.sleep(0.05)
    assert len(maker.made) == 2
    task.cancel()


async def test_drain_ends_all(maker: Maker) -> None:
    """A stop leaves none."""
    pool = pool_of(maker)
    task = await settle(pool)
    task.cancel()
    await pool.drain()
    assert sorted(maker.ended) == ["t0", "t1"]
    assert pool.ids() == set()
