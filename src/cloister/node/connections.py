"""The record of the sandboxes' connections: tells the api process of each that ended or was refused, and counts all.

Owns the bound of what one sandbox adds to its log (connection_notes.py), and the counters. Connections come from the kernel, which is asked
once an interval, and from the egress process, whose thread calls :meth:`ConnectionLog.hear_from_thread`. Neither outlives the process.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog

from cloister.errors import CloisterError
from cloister.model.connection import ConnectionRecord
from cloister.model.node import SandboxNote
from cloister.network.refusals import Refusal
from cloister.node.connection_notes import ConnectionNotes, fields_of, reason_of
from cloister.node.events import SandboxEvents

__all__ = ["ConnectionLog"]

_log = structlog.get_logger("cloister.node")
_MAX_KINDS = 100
"""Counters by reason; further reasons count as ``other``."""


class ConnectionLog:
    """The connections of all sandboxes of one node. Event loop only, except for :meth:`hear_from_thread`."""

    def __init__(
        self,
        *,
        events: SandboxEvents,
        in_thread: Callable[[Callable[[], None]], Awaitable[None]],
        take_connections: Callable[[], tuple[Sequence[ConnectionRecord], int]],
        interval_s: float,
    ) -> None:
        """``take_connections`` returns the connections that the kernel let pass and that ended since its last call. It blocks.

        With them it returns how many have no record.
        """
        self._events = events
        self._in_thread = in_thread
        self._take_connections = take_connections
        self._interval_s = interval_s
        self._notes: dict[str, ConnectionNotes] = {}
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Read the kernel's connections for ever, and tell sums when they are due."""
        self._loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._interval_s)
            await self.read()
            self.tell_sums()

    async def read(self) -> None:
        """Read the kernel's connections once."""
        found: list[ConnectionRecord] = []
        lost = 0

        def read() -> None:
            nonlocal lost
            try:
                records, lost = self._take_connections()
                found.extend(records)
            except (CloisterError, OSError):  # the next round reads them
                _log.exception("node.connections_not_read")

        await self._in_thread(read)
        self.hear(found, lost)

    def hear_from_thread(self, records: Sequence[ConnectionRecord], lost: int) -> None:
        """As :meth:`hear`, from any thread; ``lost`` connections have no record. Before :meth:`run` it does nothing."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self.hear, records, lost)

    def hear(self, records: Iterable[ConnectionRecord], lost: int = 0) -> None:
        """Count connections, and tell those that their sandbox's allowance has room for."""
        now = time.monotonic()
        self._count(("lost", "", ""), lost)
        for record in records:
            reason = reason_of(record.rule)
            self._count(("connections", record.verdict, reason), record.count)
            self._count(("sent_bytes", record.verdict, reason), record.sent_bytes)
            self._count(("received_bytes", record.verdict, reason), record.received_bytes)
            notes = self._notes.setdefault(record.sandbox_id, ConnectionNotes(now))
            if (due := notes.hear(record, now)) is not None:
                self._tell(due)

    def count_refusals(self, refusals: Iterable[Refusal]) -> None:
        """Count packets that the kernel refused; the sampler tells of them."""
        for refusal in refusals:
            reason = refusal.target.reason if refusal.target is not None else "other"
            self._count(("refused_packets", "refused", reason), refusal.packets)

    def tell_sums(self, *, last: bool = False) -> None:
        """Tell the sums that are due, or all of them before the process ends."""
        now = time.monotonic()
        for sandbox_id, notes in tuple(self._notes.items()):
            for record in notes.due(now, last=last):
                self._tell(record)
            if notes.is_idle(now):
                del self._notes[sandbox_id]

    def counts(self) -> dict[str, int]:
        """Counters by ``<what>/<verdict>/<reason>``, for :class:`~cloister.model.node.NodeInfo`."""
        return {"/".join(key): count for key, count in self._counts.items()}

    def _count(self, key: tuple[str, str, str], count: int) -> None:
        if not count:
            return
        if key not in self._counts and len(self._counts) >= _MAX_KINDS:
            key = (*key[:2], "other")
        self._counts[key] += count

    def _tell(self, record: ConnectionRecord) -> None:
        level = "info" if record.verdict == "allowed" else "warn"
        note = SandboxNote(sandbox_id=record.sandbox_id, at=time.time(), level=level, event="network.connection", fields=fields_of(record))
        self._events.sandbox_noted(note)
