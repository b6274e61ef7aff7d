"""Samples the usage of live sandboxes, and reports when a sandbox met one of its limits.

Owns the rings of samples, and the counters that reports are derived from. One task reads kernel files in worker threads, a slice of the
sandboxes at a time, spread over the interval. A sandbox that has not run since its last sample costs one short read. Refused connections
are read once an interval for all sandboxes. Rings do not outlive the process.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from cloister.errors import CloisterError
from cloister.model.node import SandboxMetrics, SandboxNote, SandboxUsage
from cloister.network.refusals import Refusal
from cloister.node.events import SandboxEvents
from cloister.node.refusals import RefusalNotes
from cloister.node.samples import SampleRing

__all__ = ["Sampler", "Source"]

_log = structlog.get_logger("cloister.node")
_SLICE = 32
_WHOLE_EVERY_S = 60.0
"""The longest time between full reads of a sandbox that does not run: the host can take back its cache."""
_NEARLY_FULL = 0.01
_MIB = 1 << 20


class Source(Protocol):
    """A sandbox to sample: the part of :class:`~cloister.runtime.base.RuntimeSandbox` that the sampler needs."""

    def usage(self) -> SandboxUsage:
        """Its usage now. Blocks."""
        ...

    def cpu_used_s(self) -> float:
        """Its processor time so far. Blocks."""
        ...

    @property
    def network_slot(self) -> int:
        """The number by which the network knows it."""
        ...


@dataclass
class _Watched:
    sandbox_id: str
    source: Source | None
    """None: it has no processes."""
    ring: SampleRing
    cpu_before_s: float = 0.0
    """Processor time that it used with earlier processes."""
    usage: SandboxUsage | None = None
    whole_at: float = 0.0
    disk_is_full: bool = False
    is_held: bool = False
    refusals: RefusalNotes = field(default_factory=RefusalNotes)


class Sampler:
    """All samples of one node. Event loop only; ``in_thread`` runs the blocking reads."""

    def __init__(
        self,
        *,
        events: SandboxEvents,
        in_thread: Callable[[Callable[[], None]], Awaitable[None]],
        take_refusals: Callable[[], list[Refusal]],
        interval_s: float,
        count_refusals: Callable[[list[Refusal]], None] = lambda _: None,
    ) -> None:
        """``take_refusals`` returns the connections refused to all sandboxes since its last call. It blocks.

        ``count_refusals`` gets them too.
        """
        self._interval_s = interval_s
        self._events = events
        self._in_thread = in_thread
        self._take_refusals = take_refusals
        self._count_refusals = count_refusals
        self._refusals_lock = asyncio.Lock()
        self._watched: dict[str, _Watched] = {}
        self._reads: set[asyncio.Future[None]] = set()
        self._met = Counter[str]()

    def watch(self, sandbox_id: str, source: Source | None, started_at: float, cpu_before_s: float = 0.0) -> None:
        """Begin to sample a sandbox. It had used ``cpu_before_s`` of processor time when a client got it.

        Without a ``source`` there is nothing to sample before :meth:`go_on`.
        """
        self._watched[sandbox_id] = _Watched(sandbox_id, source, SampleRing(started_at, cpu_before_s=cpu_before_s))

    def hold(self, sandbox_id: str) -> None:
        """Begin no samples of a sandbox that is paused; those that there are can be read."""
        self._watched[sandbox_id].is_held = True

    async def let_go(self, sandbox_id: str) -> None:
        """Take a last sample of a sandbox that is held; its processes may end when this returns."""
        watched = self._watched[sandbox_id]
        await self._sample([watched])
        watched.source = None
        if self._reads:
            await asyncio.wait(set(self._reads))

    def go_on(self, sandbox_id: str, source: Source) -> None:
        """Sample it again: the same processes, or new ones, whose processor time begins at zero."""
        watched = self._watched[sandbox_id]
        if watched.source is None and watched.usage is not None:
            watched.cpu_before_s += watched.usage.cpu_used_s
            watched.usage = None
        watched.source, watched.is_held = source, False

    async def forget(self, sandbox_id: str) -> None:
        """Take a last sample, then drop them all. Call it between the end of the processes and the removal of the control group."""
        watched = self._watched.get(sandbox_id)
        if watched is not None:
            await self._hear_refusals(watched)
            self._watched.pop(sandbox_id, None)
            await self._sample([watched])

    async def metrics(self, sandbox_id: str, start: float | None, end: float | None, newest: int | None) -> SandboxMetrics:
        """The samples from ``start`` to ``end``, or only the ``newest`` of them.

        A sandbox that runs and has no recent sample is sampled now.

        Raises: KeyError.
        """
        watched = self._watched[sandbox_id]
        if not watched.is_held and (watched.usage is None or time.time() - watched.ring.newest_at > 2 * self._interval_s):
            await self._sample([watched])
        usage = watched.usage
        samples = watched.ring.samples(start, end)
        return SandboxMetrics(
            mem_limit_bytes=usage.mem_limit_bytes if usage else 0,
            disk_total_bytes=usage.disk_total_bytes if usage else 0,
            samples=tuple(samples if newest is None else samples[-newest:]),
        )

    def limits_met(self) -> dict[str, int]:
        """How often sandboxes met their limits; see :attr:`~cloister.model.node.NodeInfo.limits_met`."""
        return dict(self._met)

    async def run(self) -> None:
        """Sample for ever, each sandbox once an interval."""
        while True:
            deadline = time.monotonic() + self._interval_s
            await self._hear_refusals()
            watched = [one for one in self._watched.values() if not one.is_held]
            pause_s = self._interval_s / 2 / (len(watched) // _SLICE + 1)
            for first in range(0, len(watched), _SLICE):
                await self._sample([one for one in watched[first : first + _SLICE] if self._is_due(one)])
                await asyncio.sleep(pause_s)
            await asyncio.sleep(max(0.0, deadline - time.monotonic()))

    def _is_due(self, one: _Watched) -> bool:
        """False for one that has ended or was paused meanwhile."""
        return one.sandbox_id in self._watched and not one.is_held

    async def _hear_refusals(self, ending: _Watched | None = None) -> None:
        """Read refused connections of all sandboxes. For the sandbox that is ``ending`` it is the last read: its slot is used again."""
        found: list[Refusal] = []

        def read() -> None:
            try:
                found.extend(self._take_refusals())
            except (CloisterError, OSError):  # the next round reads them; sampling goes on
                _log.exception("node.refusals_not_read")

        async with self._refusals_lock:
            await self._in_thread(read)
            self._count_refusals(found)
            by_slot = {one.source.network_slot: one for one in self._watched.values() if one.source is not None} if found else {}
            for refusal in found:
                if (one := by_slot.get(refusal.slot)) is not None:
                    one.refusals.hear(refusal)
            at, now = time.time(), time.monotonic()
            for one in self._watched.values() if ending is None else (ending,):
                for event, fields in one.refusals.due(now, last=one is ending):
                    self._events.sandbox_noted(SandboxNote(sandbox_id=one.sandbox_id, at=at, level="warn", event=event, fields=fields))

    async def _sample(self, watched: list[_Watched]) -> None:
        found: list[tuple[_Watched, float, SandboxUsage]] = []
        sources = [(one, one.source) for one in watched if one.source is not None]

        def read() -> None:
            for one, source in sources:
                try:
                    found.append((one, time.time(), _read(one, source)))
                except OSError as error:  # it ended meanwhile
                    _log.debug("sandbox.not_sampled", sandbox_id=one.sandbox_id, error=str(error))

        reading = asyncio.ensure_future(self._in_thread(read))
        self._reads.add(reading)
        reading.add_done_callback(self._reads.discard)
        await reading
        for one, at, usage in found:
            before, one.usage = one.usage, usage
            one.ring.add(at, dataclasses.replace(usage, cpu_used_s=usage.cpu_used_s + one.cpu_before_s))
            for note in _limits_met(one, before, usage, at):
                self._met[note.event.partition(".")[0]] += int(note.fields.get("killed", 1))
                _log.info("sandbox.limit_met", sandbox_id=note.sandbox_id, limit=note.event)
                self._events.sandbox_noted(note)


def _read(one: _Watched, source: Source) -> SandboxUsage:
    """Runs in: a worker thread."""
    now = time.monotonic()
    if one.usage is not None and now - one.whole_at < _WHOLE_EVERY_S and source.cpu_used_s() == one.usage.cpu_used_s:
        return one.usage
    one.whole_at = now
    return source.usage()


def _limits_met(one: _Watched, before: SandboxUsage | None, usage: SandboxUsage, at: float) -> list[SandboxNote]:
    """The limits that the sandbox met between two samples. The first sample of an adopted sandbox says nothing of the time before."""
    notes: list[tuple[str, str, dict[str, int | str]]] = []
    if before is not None and usage.oom_kills > before.oom_kills:
        killed = usage.oom_kills - before.oom_kills
        notes.append(("error", "memory.exhausted", {"killed": killed, "limit_mib": usage.mem_limit_bytes // _MIB}))
    if before is not None and usage.pids_refused > before.pids_refused:
        notes.append(("warn", "processes.exhausted", {"refused": usage.pids_refused - before.pids_refused}))
    free = usage.disk_total_bytes - usage.disk_used_bytes
    is_full = free < usage.disk_total_bytes * _NEARLY_FULL or usage.inodes_free == 0
    if is_full and not one.disk_is_full:
        notes.append(("warn", "disk.exhausted", {"limit_mib": usage.disk_total_bytes // _MIB, "inodes_free": usage.inodes_free}))
    one.disk_is_full = is_full
    return [SandboxNote(sandbox_id=one.sandbox_id, at=at, level=level, event=event, fields=fields) for level, event, fields in notes]
