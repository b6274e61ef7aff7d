"""The snapshots that wait or are being taken: few at a time, because they share the disk, and a bounded number (I6).

No team has all places and all threads: its large sandboxes delay its own captures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from weakref import WeakValueDictionary

from cloister.errors import ConflictError, InvalidRequestError, NoCapacityError, QuotaExceededError
from cloister.model.template import Template
from cloister.node.background import WorkerThreads
from cloister.node.live import LiveSandbox
from cloister.node.snapshots import SnapshotName, Snapshots
from cloister.nodewire.requests import TakeSnapshot
from cloister.runtime.base import BrokenSandboxError

__all__ = ["SnapshotQueue"]

_AT_A_TIME = 4
_AT_A_TIME_OF_TEAM = 2
_MAX_QUEUED = 64
"""Snapshots that wait or are being taken."""
_MAX_QUEUED_OF_TEAM = 32
"""The other half is for other teams: a team that forks much delays itself."""


_LATER = "try again when some have been taken"


class SnapshotQueue:
    """Runs :class:`Snapshots` in threads of its own. Event loop only."""

    def __init__(self, snapshots: Snapshots, on_broken: Callable[[LiveSandbox], None]) -> None:
        """``on_broken`` learns of a sandbox that must not go on, because a capture of its memory has broken one of its processes."""
        self._snapshots = snapshots
        self._on_broken = on_broken
        self._threads = WorkerThreads(_AT_A_TIME, "snapshot")
        self._queued: dict[asyncio.Future[Template], str] = {}
        """Each with its team."""
        self._places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def take(self, live: LiveSandbox, request: TakeSnapshot) -> Template:
        """The snapshot of a running sandbox. It is taken to its end, also when the caller is cancelled.

        Raises: InvalidRequestError (memory is asked for, and cannot be had), ConflictError (a pause of it has begun), NoCapacityError,
        QuotaExceededError (too many wait already); and as :meth:`Snapshots.of`.
        """
        if request.memory and not live.sandbox.capabilities.checkpoint:
            message = "a capture with memory needs the capability 'checkpoint', which this node does not have"
            raise InvalidRequestError(message, hint="memory: false captures the files")
        if live.change is not None:  # the pause waits for the snapshots that were there before it, and would be undone by this one
            raise ConflictError(f"sandbox {request.sandbox_id} is being paused", hint="resume it first (connect to it)")
        teams = tuple(self._queued.values())
        if len(teams) >= _MAX_QUEUED:
            raise NoCapacityError(f"{len(teams)} snapshots wait already", hint=_LATER)
        if teams.count(live.record.team_id) >= _MAX_QUEUED_OF_TEAM:
            raise QuotaExceededError(f"{_MAX_QUEUED_OF_TEAM} snapshots and forks of the team wait already", hint=_LATER)
        record, sandbox = live.record, live.sandbox
        name = SnapshotName(
            build_id=request.build_id,
            template_id=request.template_id,
            name=request.name,
            for_copies=request.for_copies,
            memory=request.memory,
        )
        taking = asyncio.ensure_future(self._take(record.team_id, lambda: self._snapshots.of(record, sandbox, name)))
        self._queued[taking] = record.team_id
        taking.add_done_callback(self._queued.pop)
        live.readers.add(taking)  # a pause waits for it
        taking.add_done_callback(live.readers.discard)
        taking.add_done_callback(partial(self._look, live))
        return await asyncio.shield(taking)

    def _look(self, live: LiveSandbox, taken: asyncio.Future[Template]) -> None:
        if not taken.cancelled() and isinstance(taken.exception(), BrokenSandboxError):
            self._on_broken(live)

    async def _take(self, team_id: str, work: Callable[[], Template]) -> Template:
        places = self._places.get(team_id)
        if places is None:
            places = self._places[team_id] = asyncio.Semaphore(_AT_A_TIME_OF_TEAM)
        async with places:
            return await self._threads.run(work)

    def close(self) -> None:
        """Drop the snapshots that wait, and wait for those that are being taken."""
        for taking in self._queued:
            taking.cancel()
        self._threads.close(cancel_waiting=True)
