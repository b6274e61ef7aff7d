"""All sandboxes, in memory, written through to the store.

Owns the consistency of memory and store. The ingress looks up a sandbox for every request, so a lookup is a dictionary read. Memory
changes first, then the store, with one write at a time for each sandbox, which has the lifecycle events of the change too. A bounded
number of ended sandboxes is kept, with the reasons.

A pause or resume that is under way is in memory only: its outcome is stored, and after a crash of this process the node has the truth.

This is the registry of the only api process of a store. Where several share a store, :mod:`cloister.control.shared_registry` extends it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog

from cloister.control.lifecycle_events import event_of, time_text
from cloister.errors import ConflictError, SandboxNotFoundError, StorageFullError, StoreError
from cloister.model.event import EventType, LifecycleEvent
from cloister.model.lifecycle import Pause, TimeoutAction
from cloister.model.network import EgressPolicy, NetworkOptions
from cloister.model.sandbox import EndReason, Sandbox, SandboxRecord, SandboxState, transition
from cloister.model.team import TeamUse
from cloister.model.team_metrics import TeamSample
from cloister.model.usage import use_of
from cloister.store.base import Store
from cloister.store.sharing import Reservation

__all__ = ["Change", "Entry", "Registry", "absence"]

_log = structlog.get_logger("cloister.control")
_MAX_ENDED = 50_000
_CALMING_S = 1.0
_OVERDUE_S = 3600.0
"""After its deadline a sandbox counts as ended, whether or not its node says so."""
_MAX_UNSTORED_EVENTS = 100
"""Of one sandbox, while the store fails."""


@dataclass(frozen=True)
class Change:
    """A change of a row. It can be made again on the row that another process has stored meanwhile."""

    state: SandboxState | None
    """The new state; None: the same as before."""
    fields: dict[str, Any]

    def of(self, row: Sandbox) -> Sandbox:
        """The changed row. Raises: InvalidTransitionError."""
        return replace(row, **self.fields) if self.state is None else transition(row, self.state, **self.fields)


class Entry:
    """A live sandbox in memory."""

    __slots__ = ("changes", "events", "is_added", "lock", "row", "stored_version")

    def __init__(self, row: Sandbox, *, is_added: bool) -> None:
        self.row = row
        self.stored_version = row.version
        self.is_added = is_added
        """Whether the store has it, at some version."""
        self.changes: list[Change] = []
        """Not stored yet, as the events."""
        self.events: list[LifecycleEvent] = []
        """Not stored yet; they are stored with the next write of the row."""
        self.lock = asyncio.Lock()


class Registry:
    """Live sandboxes by id, and recently ended ones. Calls functions at once when a sandbox ends or can no longer be reached."""

    def __init__(self, store: Store, *, retention_s: float, paused_retention_s: float = 2_592_000.0) -> None:
        self._store = store
        self._retention_s = retention_s
        self._paused_retention_s = paused_retention_s
        self._live: dict[str, Entry] = {}
        self._by_key: dict[tuple[str, str], str] = {}
        """Ids of live sandboxes by team and idempotency key."""
        self._ended: OrderedDict[str, Sandbox] = OrderedDict()
        self._use: dict[str, TeamUse] = {}
        self._peaks: Counter[str] = Counter()
        self._starts: Counter[str] = Counter()
        self._writes: set[asyncio.Task[None]] = set()
        self.ends = Counter[str]()
        """Ends since this process started, by reason."""
        self._on_end: list[Callable[[str], None]] = []
        self._on_unreachable: list[Callable[[str], None]] = []
        self._on_event: list[Callable[[int], None]] = []

    async def load(self) -> None:
        """Read the store; call this once, before any other method."""
        for row in await self._store.list_sandboxes(ended_since=time.time() - self._retention_s):
            if row.state is SandboxState.ENDED:
                self._remember(row)
            else:
                self._insert(row, is_added=True)

    async def close(self) -> None:
        """Wait for writes under way."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    def on_end(self, function: Callable[[str], None]) -> None:
        """Have ``function(sandbox_id)`` called when a sandbox ends."""
        self._on_end.append(function)

    def on_unreachable(self, function: Callable[[str], None]) -> None:
        """Have ``function(sandbox_id)`` called when a sandbox is paused or ends: no request reaches it any more."""
        self._on_unreachable.append(function)

    def on_event(self, function: Callable[[int], None]) -> None:
        """Have ``function(count)`` called when events are stored."""
        self._on_event.append(function)

    def on_due(self, function: Callable[[], None]) -> None:
        """Have ``function()`` called when another process has stored events, or this one begins to lead."""

    def live(self, sandbox_id: str) -> Sandbox | None:
        """The sandbox, if it has not ended and its deadline has not ended it."""
        entry = self._live.get(sandbox_id)
        return entry.row if entry is not None and entry.row.state_at(time.time()) is not SandboxState.ENDED else None

    def peek(self, sandbox_id: str) -> Sandbox | None:
        """The sandbox, if it has not ended, in any state and with any deadline."""
        entry = self._live.get(sandbox_id)
        return None if entry is None else entry.row

    def ended(self, sandbox_id: str) -> Sandbox | None:
        """The sandbox, if it ended and is still kept."""
        if (row := self._ended.get(sandbox_id)) is not None:
            return row
        entry = self._live.get(sandbox_id)
        if entry is not None and entry.row.state_at(time.time()) is SandboxState.ENDED:
            return transition(entry.row, SandboxState.ENDED, end_reason=EndReason.EXPIRED)
        return None

    def all_live(self) -> Iterator[Sandbox]:
        """Every sandbox that has not ended, including those being created."""
        return iter([entry.row for entry in self._live.values()])

    def find_by_key(self, team_id: str, idempotency_key: str) -> Sandbox | None:
        """The team's live sandbox that a request with the key created, or is creating."""
        return self.live(self._by_key.get((team_id, idempotency_key), ""))

    # ---- other api processes: there are none ----

    @property
    def is_shared(self) -> bool:
        """Whether other processes change sandboxes too."""
        return False

    @property
    def is_leader(self) -> bool:
        """Whether this process does now what one must do for all."""
        return True

    async def catch_up(self) -> None:
        """Return when all that was stored before this call is in memory. Raises: StoreUnreachableError."""

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:  # noqa: ARG002 - see the subclass
        """In the block no other process is in a block of the same name."""
        yield

    async def others_creations(self) -> Collection[str]:
        """The ids of sandboxes that other processes are making now."""
        return ()

    async def hold(self, sandbox_id: str, within: Reservation) -> None:
        """Take the places that a pause or resume needs, which is in memory already, from the team's in all processes.

        Raises: as the reservation, and StoreError; the caller undoes the change.
        """

    def _undone(self, entry: Entry) -> None:
        """A held change was taken back in memory."""

    def _not_added(self, row: Sandbox, error: BaseException) -> None:
        """The store failed to add a row."""

    # ---- use ----

    def use_of(self, team_id: str) -> TeamUse:
        """The use of the team's sandboxes, also those that are being created, paused or resumed."""
        return self._use.get(team_id, TeamUse())

    def take_sample(self, at: float) -> list[TeamSample]:
        """A sample of each team that had a sandbox since the last call."""
        teams = self._peaks.keys() | self._starts.keys()
        samples = [TeamSample(team_id=one, at=at, peak=self._peaks[one], starts=self._starts[one]) for one in sorted(teams)]
        self._starts.clear()
        self._peaks = Counter({team_id: use.sandboxes for team_id, use in self._use.items() if use.sandboxes})
        return samples

    def peek_sample(self, team_id: str, at: float) -> TeamSample:
        """The sample of the team that the next :meth:`take_sample` would return now."""
        return TeamSample(team_id=team_id, at=at, peak=self._peaks[team_id], starts=self._starts[team_id])

    def reserve(self, row: Sandbox) -> None:
        """Count a sandbox for its team before :meth:`add` stores it."""
        self._insert(row, is_added=False)

    async def add(self, row: Sandbox, *, within: Reservation | None = None) -> None:
        """Add a sandbox; removes it again if the store fails. ``within`` counts where there are other processes."""
        if row.sandbox_id not in self._live:
            self._insert(row, is_added=False)
        try:
            await self._store.add_sandbox(row, within=within if self.is_shared else None)
        except BaseException as error:
            self._take_out(row.sandbox_id)
            self._not_added(row, error)
            raise
        if (entry := self._live.get(row.sandbox_id)) is not None:
            entry.is_added = True

    async def set_running(self, record: SandboxRecord, node_id: str | None) -> Sandbox:
        """Note that a created sandbox runs, in memory at once; returns when it is stored. Raises: InvalidTransitionError."""
        entry = self._live[record.sandbox_id]
        changes = {"started_at": record.started_at, "node_id": node_id, "runtime": record.runtime}
        self._make(entry, Change(SandboxState.RUNNING, changes))
        self._starts[entry.row.team_id] += 1
        self._tell(entry, EventType.CREATED, entry.row.started_at)
        await self._write(entry)
        return entry.row

    def set_pausing(self, sandbox_id: str, pause: Pause) -> Sandbox:
        """Note that a running sandbox is being paused. Raises: SandboxNotFoundError, InvalidTransitionError."""
        return self._change(sandbox_id, SandboxState.PAUSING, pause=pause).row

    def set_resuming(self, sandbox_id: str) -> Sandbox:
        """Note that a paused sandbox is being resumed. Raises: SandboxNotFoundError, InvalidTransitionError."""
        return self._change(sandbox_id, SandboxState.RESUMING).row

    async def set_paused(self, sandbox_id: str, pause: Pause) -> Sandbox:
        """Note how a sandbox is paused, in memory at once; returns when it is stored.

        It was running, being paused or resumed, or it was paused in another way. Raises: SandboxNotFoundError.
        """
        state = self._entry(sandbox_id).row.state
        if state is SandboxState.PAUSED:
            entry = self._entry(sandbox_id)
            self._make(entry, Change(None, {"pause": pause, "end_at": pause.at}))
        else:
            if state is SandboxState.RUNNING:
                self._change(sandbox_id, SandboxState.PAUSING, pause=pause)
            entry = self._change(sandbox_id, SandboxState.PAUSED, pause=pause, end_at=pause.at)
            self._tell(entry, EventType.PAUSED, pause.at)
            for function in self._on_unreachable:
                function(sandbox_id)
        await self._write(entry)
        return entry.row

    def cancel_pause(self, sandbox_id: str) -> None:
        """Note that the pause failed, and the sandbox runs on. Does nothing if it has ended, or its node has paused it."""
        entry = self._live.get(sandbox_id)
        if entry is not None and entry.row.state is SandboxState.PAUSING:
            self._undone(self._change(sandbox_id, SandboxState.RUNNING, pause=None))

    def cancel_resume(self, sandbox_id: str) -> None:
        """Note that the resume failed, and the sandbox stays paused. Does nothing if it has ended, or its node has resumed it."""
        entry = self._live.get(sandbox_id)
        if entry is not None and entry.row.state is SandboxState.RESUMING:
            self._undone(self._change(sandbox_id, SandboxState.PAUSED))

    async def set_resumed(self, record: SandboxRecord) -> Sandbox:
        """Note that a sandbox runs again as its node's ``record`` says, in memory at once; returns when it is stored.

        It was being resumed or paused, or paused. Raises: SandboxNotFoundError.
        """
        entry = self._entry(record.sandbox_id)
        if entry.row.state is SandboxState.PAUSED:
            self._change(record.sandbox_id, SandboxState.RESUMING)
        changes = {"started_at": record.started_at, "end_at": record.end_at, "lifecycle": record.lifecycle}
        self._change(record.sandbox_id, SandboxState.RUNNING, pause=None, **changes)
        self._tell(entry, EventType.RESUMED, record.started_at)
        await self._write(entry)
        return entry.row

    async def set_node(self, sandbox_id: str, node_id: str) -> None:
        """Name the node that runs a live sandbox, in memory at once; returns when it is stored."""
        entry = self._live[sandbox_id]
        self._make(entry, Change(None, {"node_id": node_id}))
        await self._write(entry)

    async def set_network(self, sandbox_id: str, egress: EgressPolicy | None, network: NetworkOptions) -> Sandbox:
        """Change a live sandbox's network, in memory at once; returns when it is stored. Raises: SandboxNotFoundError."""
        entry = self._entry(sandbox_id)
        self._make(entry, Change(None, {"egress": egress, "network": network}))
        self._tell(entry, EventType.UPDATED, set_network=True)
        await self._write(entry)
        return entry.row

    async def set_end(self, sandbox_id: str, end_at: float) -> Sandbox:
        """Change a live sandbox's deadline, in memory at once; returns when it is stored."""
        entry = self._live[sandbox_id]
        self._make(entry, Change(None, {"end_at": end_at}))
        self._tell(entry, EventType.UPDATED, set_timeout=time_text(end_at))
        await self._write(entry)
        return entry.row

    async def note_checkpoint(self, sandbox_id: str, snapshot_id: str) -> None:
        """Note that a snapshot of a sandbox was made; returns when it is stored. A sandbox that has ended has no such event."""
        entry = self._live.get(sandbox_id)
        if entry is not None:
            self._tell(entry, EventType.CHECKPOINTED, snapshot_id=snapshot_id)
            await self._write(entry)

    def end(self, sandbox_id: str, reason: EndReason, message: str = "", at: float | None = None) -> asyncio.Task[None] | None:
        """Mark a sandbox ended, at once; the returned task stores it. Does nothing (None) if it has ended already.

        ``at`` is the time of the end (epoch seconds); None: now.
        """
        entry = self._take_out(sandbox_id)
        if entry is None:
            return None
        was_created = entry.row.state is not SandboxState.CREATING
        ending = Change(SandboxState.ENDED, {"end_reason": reason, "end_message": message, "ended_at": at or time.time()})
        entry.row = ending.of(entry.row)
        self._note(entry, ending)
        if was_created:
            self._tell(entry, EventType.KILLED, entry.row.ended_at, reason=reason.value)
        self._remember(entry.row)
        self.ends[reason] += 1
        task = self._in_background(self._write_ended(entry))
        _log.info("sandbox.ended", sandbox_id=sandbox_id, team_id=entry.row.team_id, reason=reason, detail=message)
        self._tell_end(sandbox_id)
        return task

    def _in_background(self, write: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(write)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task

    def _tell_end(self, sandbox_id: str) -> None:
        for function in (*self._on_unreachable, *self._on_end):
            function(sandbox_id)

    async def prune(self) -> None:
        """Delete sandboxes that ended before the retention time, and end those whose node is lost."""
        now = time.time()
        for row in self.all_live() if self.is_leader else ():
            is_kept = row.pause is not None or row.lifecycle.on_timeout is not TimeoutAction.KILL  # its node may have paused it
            deadline = row.end_at + (self._paused_retention_s if is_kept else 0)
            if deadline < now - _OVERDUE_S:  # its node would have said so, if it still existed under its id
                self.end(row.sandbox_id, EndReason.PAUSED_TOO_LONG if is_kept else EndReason.EXPIRED, "", deadline)
        oldest = now - self._retention_s
        while self._ended and (next(iter(self._ended.values())).ended_at or 0) < oldest:
            self._ended.popitem(last=False)
        if self.is_leader:
            await self._store.prune_sandboxes(ended_before=oldest)

    def _entry(self, sandbox_id: str) -> Entry:
        entry = self._live.get(sandbox_id)
        if entry is None:
            raise absence(sandbox_id, "it ended meanwhile")
        return entry

    def _change(self, sandbox_id: str, state: SandboxState, **changes: Any) -> Entry:
        entry = self._entry(sandbox_id)
        self._make(entry, Change(state, changes))
        return entry

    def _make(self, entry: Entry, change: Change) -> None:
        self._put(entry, change.of(entry.row))
        self._note(entry, change)

    def _note(self, entry: Entry, change: Change) -> None:
        """Note a change until it is stored, where it may have to be made again."""
        if self.is_shared:
            entry.changes.append(change)

    def _put(self, entry: Entry, row: Sandbox) -> None:
        self._count(entry.row, -1)
        entry.row = row
        self._count(row, 1)

    def _count(self, row: Sandbox, times: int) -> None:
        """Count a live row, or take it out of the counts (``times`` is -1)."""
        use = self._use.get(row.team_id, TeamUse()).plus(use_of(row), times)
        self._use[row.team_id] = use
        if use == TeamUse():
            del self._use[row.team_id]
        self._peaks[row.team_id] = max(self._peaks[row.team_id], use.sandboxes)

    def _insert(self, row: Sandbox, *, is_added: bool) -> None:
        self._live[row.sandbox_id] = Entry(row, is_added=is_added)
        if row.idempotency_key is not None:
            self._by_key[row.team_id, row.idempotency_key] = row.sandbox_id
        self._count(row, 1)

    def _take_out(self, sandbox_id: str) -> Entry | None:
        entry = self._live.pop(sandbox_id, None)
        if entry is not None:
            self._count(entry.row, -1)
            key = (entry.row.team_id, entry.row.idempotency_key or "")
            if self._by_key.get(key) == sandbox_id:
                del self._by_key[key]
        return entry

    def _remember(self, row: Sandbox) -> None:
        self._ended[row.sandbox_id] = row
        while len(self._ended) > _MAX_ENDED:
            self._ended.popitem(last=False)

    def _tell(self, entry: Entry, kind: EventType, at: float | None = None, **more: object) -> None:
        """Make an event of the present row, for the next write; ``at``: now by default."""
        if len(entry.events) < _MAX_UNSTORED_EVENTS:
            entry.events.append(event_of(entry.row, kind, at or time.time(), **more))

    async def _write(self, entry: Entry, within: Reservation | None = None) -> None:
        async with entry.lock:
            while True:
                row = replace(entry.row, version=entry.stored_version + 1)
                events, changes = tuple(entry.events), len(entry.changes)
                if await self._store.change_sandbox(row, expected_version=entry.stored_version, events=events, within=within):
                    break
                await self._give_way(entry)
                if not (entry.changes or entry.events):
                    return  # the other writer has made the same change
            entry.stored_version = row.version
            del entry.events[: len(events)], entry.changes[:changes]
        for function in self._on_event if events else ():
            function(len(events))

    async def _give_way(self, entry: Entry) -> None:
        """Another writer has changed the row: bring the entry to its version. Raises: ConflictError, SandboxNotFoundError: it cannot be."""
        raise ConflictError(f"sandbox {entry.row.sandbox_id} was changed by another writer")

    async def _write_ended(self, entry: Entry) -> None:
        for attempt in range(3):
            try:
                await self._write(entry)
            except SandboxNotFoundError:
                return  # another process has stored its end
            except ConflictError:
                _log.exception("sandbox.end_conflicted", sandbox_id=entry.row.sandbox_id)
                return
            except (StoreError, StorageFullError):
                _log.exception("sandbox.end_unstored", sandbox_id=entry.row.sandbox_id, attempt=attempt)
                await asyncio.sleep(_CALMING_S)
            else:
                return


def absence(sandbox_id: str, why: str = "") -> SandboxNotFoundError:
    """The error that there is no such sandbox for this team. ``why`` is for the team that has or had it. Clients match the words."""
    return SandboxNotFoundError(f"sandbox {sandbox_id} doesn't exist or you don't have access to it{': ' if why else ''}{why}")
