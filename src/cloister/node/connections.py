"""The record of the sandboxes' connections: tells the api process of each that ended or was refused, and counts all.

Owns the bound of what one sandbox adds to its log (connection_notes.py), and the counters. Its sources are asked once
an interval: the kernel, and the egress process. Neither outlives the process.
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

__all__ = ["ConnectionLog", "TakeRecords"]

_log = structlog.get_logger("cloister.node")
_MAX_KINDS = 100
"""Counters by reason; further reasons count as ``other``."""


TakeRecords = Callable[[], tuple[Sequence[ConnectionRecord], int]]
"""Takes the connections that ended or were refused since its last call, and the number of those that have no record. It blocks."""


class ConnectionLog:
    """The connections of all sandboxes of one node. Event loop only."""

    def __init__(
        self,
        *,
        events: SandboxEvents,
        in_thread: Callable[[Callable[[], None]], Awaitable[None]],
        sources: Sequence[TakeRecords],
        interval_s: float,
    ) -> None:
        self._events = events
        self._in_thread = in_thread
        self._sources = sources
        self._interval_s = interval_s
        self._notes: dict[str, ConnectionNotes] = {}
        self._counts: Counter[tuple[str, str, str]] = Counter()

    async def run(self) -> None:
        """Read the sources for ever, and tell sums when they are due."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.read()
            self.tell_sums()

    async def read(self) -> None:
        """Read each source once."""
        found: list[ConnectionRecord] = []
        lost = 0

        def read() -> None:
            nonlocal lost
            for take in self._sources:
                try:
                    records, more = take()
                except (CloisterError, OSError):  # the next round reads them
                    _log.exception("node.connections_not_read")
                    continue
                found.extend(records)
                lost += more

        await self._in_thread(read)
        self.hear(found, lost)

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
