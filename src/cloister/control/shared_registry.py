"""The registry where several api processes share a store: each has all sandboxes in memory, as the store has them.

The store is the authority. A write that finds another version takes the other process's row and makes its own change again on it. The
store tells every process each change in order (:mod:`cloister.store.sharing`); a process that was cut off reads all rows again. While the
store is away, reads go on from memory, which traffic to sandboxes needs; writes fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping

import structlog

from cloister.control.registry import Change, Entry, Registry, absence
from cloister.errors import (
    ConflictError,
    InvalidTransitionError,
    SandboxNotFoundError,
    StorageFullError,
    StoreError,
    StoreUnreachableError,
    UnavailableError,
)
from cloister.model.sandbox import EndReason, Sandbox, SandboxState, transition
from cloister.store.base import Store
from cloister.store.sharing import Reservation, Sharing, SharingListener

__all__ = ["SharedRegistry"]

_log = structlog.get_logger("cloister.control")
_FIRST_S = 15.0
"""For the first connection to the store."""


class SharedRegistry(Registry):
    """See :class:`Registry`."""

    def __init__(self, store: Store, sharing: Sharing, *, retention_s: float, paused_retention_s: float) -> None:
        super().__init__(store, retention_s=retention_s, paused_retention_s=paused_retention_s)
        self._sharing = sharing
        self._is_loaded = asyncio.Event()
        self._doubtful: set[str] = set()
        """Creations that ended because the store did not answer: it may have the row all the same."""
        self._due: list[Callable[[], None]] = []

    async def load(self) -> None:
        """See :meth:`Registry.load`; from now on it is kept true. Raises: UnavailableError: the store does not answer."""
        self._sharing.start(SharingListener(self._read_all, self._hear, self._tell_due))
        try:
            async with asyncio.timeout(_FIRST_S):
                await self._is_loaded.wait()
        except TimeoutError as error:
            raise UnavailableError("the database does not answer", hint="look at its log, and at the setting database_url") from error

    def on_due(self, function: Callable[[], None]) -> None:
        """See the superclass."""
        self._due.append(function)

    def _tell_due(self) -> None:
        for function in self._due:
            function()

    @property
    def is_shared(self) -> bool:
        """See the superclass."""
        return True

    @property
    def is_leader(self) -> bool:
        """See the superclass."""
        return self._sharing.is_leader

    async def catch_up(self) -> None:
        """See the superclass."""
        await self._sharing.catch_up()

    @contextlib.asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """See the superclass."""
        async with self._sharing.alone(name):
            yield

    async def others_creations(self) -> Collection[str]:
        """See the superclass."""
        return await self._sharing.list_creations()

    async def hold(self, sandbox_id: str, within: Reservation) -> None:
        """See the superclass."""
        await self._write(self._entry(sandbox_id), within)

    def _undone(self, entry: Entry) -> None:
        self._in_background(self._write_later(entry))

    def _not_added(self, row: Sandbox, error: BaseException) -> None:
        if isinstance(error, StoreUnreachableError):
            at = time.time()
            self._remember(transition(row, SandboxState.ENDED, end_reason=EndReason.FAILED, end_message=error.message, ended_at=at))
            self._doubtful.add(row.sandbox_id)

    async def _write_later(self, entry: Entry) -> None:
        try:
            await self._write(entry)
        except (StoreError, StorageFullError, ConflictError, SandboxNotFoundError):  # the next comparison with the node repairs it
            _log.warning("sandbox.change_unstored", sandbox_id=entry.row.sandbox_id)

    # ---- changes of others ----

    async def _read_all(self) -> None:
        rows = await self._store.list_sandboxes(ended_since=time.time() - self._retention_s)
        known = {row.sandbox_id for row in rows}
        for row in rows:
            await self._learn(row, is_news=self._is_loaded.is_set())
        for sandbox_id, entry in [(one, entry) for one, entry in self._live.items() if one not in known and entry.is_added]:
            if await self._store.find_sandboxes([sandbox_id]):  # it was added meanwhile
                continue
            _log.warning("sandbox.forgotten", sandbox_id=sandbox_id, version=entry.stored_version)
            self._take_out(sandbox_id)
            self._tell_end(sandbox_id)
        self._is_loaded.set()

    async def _hear(self, versions: Mapping[str, int]) -> None:
        news = [one for one, version in versions.items() if self._is_news(one, version)]
        for row in await self._store.find_sandboxes(news):
            await self._learn(row, is_news=True)

    def _is_news(self, sandbox_id: str, version: int) -> bool:
        entry = self._live.get(sandbox_id)
        if entry is None:
            return sandbox_id not in self._ended or sandbox_id in self._doubtful
        return version > entry.stored_version

    async def _learn(self, row: Sandbox, *, is_news: bool) -> None:
        """Take over a row as the store has it. ``is_news``: it changed while this process runs."""
        entry = self._live.get(row.sandbox_id)
        if entry is not None:
            async with entry.lock:  # a write of this process ends first
                if row.version > entry.stored_version and self._live.get(row.sandbox_id) is entry:
                    self._take_over(entry, row, is_news=is_news)
        elif (ended := self._ended.get(row.sandbox_id)) is not None:
            if row.state is not SandboxState.ENDED:  # the end could not be stored when it was noted
                again = Entry(row, is_added=True)
                ending = Change(SandboxState.ENDED, {name: getattr(ended, name) for name in ("end_reason", "end_message", "ended_at")})
                again.row = ending.of(row)
                again.changes.append(ending)
                self._in_background(self._write_ended(again))
            self._doubtful.discard(row.sandbox_id)
        elif row.state is SandboxState.ENDED:
            self._remember(row)
        else:
            self._insert(row, is_added=True)
            self._starts[row.team_id] += is_news and row.state is not SandboxState.CREATING

    def _take_over(self, entry: Entry, row: Sandbox, *, is_news: bool) -> None:
        """Bring an entry to the row that another process stored, with the changes of this process that are not stored yet."""
        before, entry.stored_version = entry.row, row.version
        if row.state is SandboxState.ENDED:
            self._take_out(row.sandbox_id)
            self._remember(row)
            self._tell_end(row.sandbox_id)
            return
        changed = self._changed(entry, row)
        self._put(entry, changed)
        self._starts[row.team_id] += is_news and before.state is SandboxState.CREATING and row.state is not SandboxState.CREATING
        if changed.state is SandboxState.PAUSED and before.state is not SandboxState.PAUSED:
            for function in self._on_unreachable:
                function(row.sandbox_id)

    @staticmethod
    def _changed(entry: Entry, row: Sandbox) -> Sandbox:
        """The row with the entry's changes. One that it does not allow, or has already, is dropped; without any left, the events too."""
        changed, had_changes = row, bool(entry.changes)
        for change in tuple(entry.changes):
            try:
                changed = change.of(changed)
            except InvalidTransitionError:
                entry.changes.remove(change)
        if had_changes and changed == row:
            entry.changes.clear()
            entry.events.clear()
        return changed

    async def _give_way(self, entry: Entry) -> None:
        sandbox_id, is_live = entry.row.sandbox_id, self._live.get(entry.row.sandbox_id) is entry
        for row in await self._store.find_sandboxes([sandbox_id]):
            _log.debug("sandbox.changed_by_another", sandbox_id=sandbox_id, version=row.version)
            if is_live:
                self._take_over(entry, row, is_news=True)
                if row.state is not SandboxState.ENDED:
                    return
            elif row.state is not SandboxState.ENDED:  # this process ends it
                entry.row, entry.stored_version = self._changed(entry, row), row.version
                return
            else:
                self._ended[sandbox_id] = row
        raise absence(sandbox_id, "it ended meanwhile")
