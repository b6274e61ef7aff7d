"""All sandboxes that this process knows, in memory, written through to the store.

Owns the agreement of memory and store. The ingress looks here on every request, so lookups are dictionary reads. Memory changes at
once, the store after it, one write at a time for each sandbox. Ended sandboxes are remembered, within a bound, to say why they ended.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import structlog

from cloister.errors import ConflictError, StoreError
from cloister.model.sandbox import EndReason, SandboxState
from cloister.store.base import Sandbox, Store

__all__ = ["Registry"]

_log = structlog.get_logger("cloister.control")
_MAX_ENDED = 50_000
_CALMING_S = 1.0


class _Entry:
    __slots__ = ("lock", "row", "stored_version")

    def __init__(self, row: Sandbox) -> None:
        self.row = row
        self.stored_version = row.version
        self.lock = asyncio.Lock()


class Registry:
    """Live sandboxes by id, and lately ended ones. ``on_end`` functions are called, at once, for each that ends."""

    def __init__(self, store: Store, *, retention_s: float) -> None:
        self._store = store
        self._retention_s = retention_s
        self._live: dict[str, _Entry] = {}
        self._ended: OrderedDict[str, Sandbox] = OrderedDict()
        self._team_counts: dict[str, int] = {}
        self._writes: set[asyncio.Task[None]] = set()
        self._on_end: list[Callable[[str], None]] = []

    async def load(self) -> None:
        """Read what the store knows; to be called once, before anything else."""
        for row in await self._store.list_sandboxes(ended_since=time.time() - self._retention_s):
            if row.state is SandboxState.ENDED:
                self._remember(row)
            else:
                self._insert(row)

    async def close(self) -> None:
        """Wait for writes under way."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    def on_end(self, function: Callable[[str], None]) -> None:
        """Have ``function(sandbox_id)`` called when a sandbox ends."""
        self._on_end.append(function)

    def live(self, sandbox_id: str) -> Sandbox | None:
        """The sandbox, if it has neither ended nor outlived its time."""
        entry = self._live.get(sandbox_id)
        return entry.row if entry is not None and entry.row.end_at > time.time() else None

    def peek(self, sandbox_id: str) -> Sandbox | None:
        """The sandbox, if it has not ended, whatever its state and time."""
        entry = self._live.get(sandbox_id)
        return None if entry is None else entry.row

    def ended(self, sandbox_id: str) -> Sandbox | None:
        """The sandbox, if it ended and is remembered."""
        if (row := self._ended.get(sandbox_id)) is not None:
            return row
        entry = self._live.get(sandbox_id)
        if entry is not None and entry.row.end_at <= time.time():
            return replace(entry.row, state=SandboxState.ENDED, end_reason=EndReason.EXPIRED)
        return None

    def all_live(self) -> Iterator[Sandbox]:
        """Every sandbox that has not ended, also those being created."""
        return iter([entry.row for entry in self._live.values()])

    def count(self, team_id: str) -> int:
        """How many sandboxes of the team live or are being created."""
        return self._team_counts.get(team_id, 0)

    def hold(self, row: Sandbox) -> None:
        """Have a sandbox that is about to be added count at once."""
        self._insert(row)

    async def add(self, row: Sandbox) -> None:
        """Add a sandbox; it is taken back if the store refuses it."""
        if row.sandbox_id not in self._live:
            self._insert(row)
        try:
            await self._store.add_sandbox(row)
        except BaseException:
            self._take_out(row.sandbox_id)
            raise

    async def change(self, sandbox_id: str, **fields: Any) -> Sandbox:
        """Change fields of a live sandbox, in memory at once; returns when it is stored."""
        entry = self._live[sandbox_id]
        entry.row = replace(entry.row, **fields)
        await self._write(entry)
        return entry.row

    def end(self, sandbox_id: str, reason: EndReason, message: str = "") -> asyncio.Task[None] | None:
        """Mark a sandbox ended, at once; the returned task stores it. Without effect (None) when it has ended before."""
        entry = self._take_out(sandbox_id)
        if entry is None:
            return None
        entry.row = replace(entry.row, state=SandboxState.ENDED, end_reason=reason, end_message=message, ended_at=time.time())
        self._remember(entry.row)
        task = asyncio.create_task(self._write_ended(entry))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        _log.info("sandbox.ended", sandbox_id=sandbox_id, team_id=entry.row.team_id, reason=reason, detail=message)
        for function in self._on_end:
            function(sandbox_id)
        return task

    async def prune(self) -> None:
        """Forget what ended longer ago than the retention time."""
        oldest = time.time() - self._retention_s
        while self._ended and (next(iter(self._ended.values())).ended_at or 0) < oldest:
            self._ended.popitem(last=False)
        await self._store.prune_sandboxes(ended_before=oldest)

    def _insert(self, row: Sandbox) -> None:
        self._live[row.sandbox_id] = _Entry(row)
        self._team_counts[row.team_id] = self.count(row.team_id) + 1

    def _take_out(self, sandbox_id: str) -> _Entry | None:
        entry = self._live.pop(sandbox_id, None)
        if entry is not None:
            self._team_counts[entry.row.team_id] -= 1
            if not self._team_counts[entry.row.team_id]:
                del self._team_counts[entry.row.team_id]
        return entry

    def _remember(self, row: Sandbox) -> None:
        self._ended[row.sandbox_id] = row
        while len(self._ended) > _MAX_ENDED:
            self._ended.popitem(last=False)

    async def _write(self, entry: _Entry) -> None:
        async with entry.lock:
            row = replace(entry.row, version=entry.stored_version + 1)
            if not await self._store.change_sandbox(row, expected_version=entry.stored_version):
                raise ConflictError(f"sandbox {row.sandbox_id} was changed by somebody else")
            entry.stored_version = row.version

    async def _write_ended(self, entry: _Entry) -> None:
        for attempt in range(3):
            try:
                await self._write(entry)
            except ConflictError:
                _log.exception("sandbox.end_conflicted", sandbox_id=entry.row.sandbox_id)
                return
            except StoreError:
                _log.exception("sandbox.end_unstored", sandbox_id=entry.row.sandbox_id, attempt=attempt)
                await asyncio.sleep(_CALMING_S)
            else:
                return
