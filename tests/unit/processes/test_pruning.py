"""The periodic removal of what is too old."""

from __future__ import annotations

import asyncio

import pytest

from cloister.control.registry import Registry
from cloister.errors import StorageFullError
from cloister.processes import api_upkeep
from framework.waiting import eventually_async


class Part:
    """What has something to remove."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.count = 0

    async def prune(self, _retention_s: float = 0) -> None:
        """Remove it."""
        self.count += 1
        if self.fault is not None:
            raise self.fault


class Leading(Registry):
    """Knows whether this process leads."""

    def __init__(self, is_leader: bool) -> None:
        self._leads = is_leader

    @property
    def is_leader(self) -> bool:
        """See the superclass."""
        return self._leads


async def test_what_frees_space_is_removed_though_the_database_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that cannot remove its own does not keep the others from it, now and later."""
    monkeypatch.setattr(api_upkeep, "_PRUNE_S", 0.001)
    full, logs, garbage = Part(StorageFullError("the server's disk is full")), Part(OSError("no")), Part()
    pruning = asyncio.create_task(api_upkeep.prune(Leading(True), [full.prune, logs.prune], [garbage.prune]))
    await eventually_async(lambda: garbage.count > 1)
    pruning.cancel()
    await asyncio.gather(pruning, return_exceptions=True)
    assert logs.count > 1


async def test_only_the_leader_removes_what_all_processes_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process removes what is its own alone."""
    monkeypatch.setattr(api_upkeep, "_PRUNE_S", 0.001)
    own, shared = Part(), Part()
    pruning = asyncio.create_task(api_upkeep.prune(Leading(False), [own.prune], [shared.prune]))
    await eventually_async(lambda: own.count > 2)
    pruning.cancel()
    await asyncio.gather(pruning, return_exceptions=True)
    assert shared.count == 0
