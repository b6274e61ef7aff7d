"""Watches what live sandboxes use: one task for the node, samples into rings, and notes when a sandbox met one of its limits.

Owns the rings and the counters that the notes are derived from. Reads kernel files only, in worker threads, a slice of the sandboxes at a
time, spread over the interval. A sandbox that has not run since its last sample costs one short read. What the network refused is read once
an interval for all sandboxes. Rings do not outlive the process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from cloister.errors import CloisterError
from cloister.model.node import SandboxMetrics, SandboxNote
from cloister.network.refusals import Refusal
from cloister.node.refusals import RefusalNotes
from cloister.node.samples import SampleRing
from cloister.runtime.base import Usage

__all__ = ["Sampler", "Source"]

_log = structlog.get_logger("cloister.node")
_SLICE = 32
_WHOLE_EVERY_S = 60.0
"""At least this often a sandbox is read whole, though it has not run: the host can take back its cache."""
_NEARLY_FULL = 0.01
_MIB = 1 << 20


class Source(Protocol):
    """What is sampled: a :class:`~cloister.runtime.base.RuntimeSandbox`, as far as it is needed here."""

    def usage(self) -> Usage:
        """What it uses now. Blocks."""
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
    source: Source
    ring: SampleRing
    usage: Usage | None = None
    whole_at: float = 0.0
    disk_is_full: bool = False
    refusals: RefusalNotes = field(default_factory=RefusalNotes)


class Sampler:
    """All samples of one node. ``on_note`` is called on the event loop; everything else but reading happens there too."""

    def __init__(
        self,
        in_thread: Callable[[Callable[[], None]], Awaitable[None]],
        interval_s: float = 5.0,
        take_refusals: Callable[[], list[Refusal]] = list,
    ) -> None:
        """``take_refusals`` gives what was refused to all sandboxes since the last call. It blocks."""
        self.interval_s = interval_s
        self._in_thread = in_thread
        self._take_refusals = take_refusals
        self._refusals_lock = asyncio.Lock()
        self._watched: dict[str, _Watched] = {}
        self.on_note: Callable[[SandboxNote], None] = lambda _note: None

    def watch(self, sandbox_id: str, source: Source, started_at: float, cpu_before_s: float = 0.0) -> None:
        """Begin to sample a sandbox, which had used ``cpu_before_s`` of processor time when it became a client's."""
        self._watched[sandbox_id] = _Watched(sandbox_id, source, SampleRing(started_at, cpu_before_s=cpu_before_s))

    async def forget(self, sandbox_id: str) -> None:
        """Look a last time (its processes are dead, its control group is not gone yet), then drop the samples."""
        watched = self._watched.get(sandbox_id)
        if watched is not None:
            await self._hear_refusals(watched)
            self._watched.pop(sandbox_id, None)
            await self._sample([watched])

    async def metrics(self, sandbox_id: str, start: float | None, end: float | None, newest: int | None) -> SandboxMetrics:
        """The samples from ``start`` to ``end``, or the ``newest`` so many of them. A sandbox without a recent one is sampled now.

        Raises: KeyError.
        """
        watched = self._watched[sandbox_id]
        if watched.usage is None or time.time() - watched.ring.newest_at > 2 * self.interval_s:
            await self._sample([watched])
        usage = watched.usage
        samples = watched.ring.samples(start, end)
        return SandboxMetrics(
            mem_limit_bytes=usage.mem_limit_bytes if usage else 0,
            disk_total_bytes=usage.disk_total_bytes if usage else 0,
            samples=tuple(samples if newest is None else samples[-newest:]),
        )

    async def run(self) -> None:
        """Sample for ever, each sandbox once an interval."""
        while True:
            deadline = time.monotonic() + self.interval_s
            await self._hear_refusals()
            watched = list(self._watched.values())
            pause_s = self.interval_s / 2 / (len(watched) // _SLICE + 1)
            for first in range(0, len(watched), _SLICE):
                await self._sample([one for one in watched[first : first + _SLICE] if one.sandbox_id in self._watched])
                await asyncio.sleep(pause_s)
            await asyncio.sleep(max(0.0, deadline - time.monotonic()))

    async def _hear_refusals(self, ending: _Watched | None = None) -> None:
        """One read for all sandboxes; for one that is ``ending`` the last, so that its slot's next user does not inherit anything."""
        found: list[Refusal] = []

        def read() -> None:
            try:
                found.extend(self._take_refusals())
            except (CloisterError, OSError):  # the next round reads what is still there; sampling goes on
                _log.exception("node.refusals_not_read")

        async with self._refusals_lock:
            await self._in_thread(read)
            by_slot = {one.source.network_slot: one for one in self._watched.values()} if found else {}
            for refusal in found:
                if (one := by_slot.get(refusal.slot)) is not None:
                    one.refusals.hear(refusal)
            at, now = time.time(), time.monotonic()
            for one in self._watched.values() if ending is None else (ending,):
                for event, fields in one.refusals.due(now, last=one is ending):
                    self.on_note(SandboxNote(sandbox_id=one.sandbox_id, at=at, level="warn", event=event, fields=fields))

    async def _sample(self, watched: list[_Watched]) -> None:
        found: list[tuple[_Watched, float, Usage]] = []

        def read() -> None:
            for one in watched:
                try:
                    found.append((one, time.time(), _read(one)))
                except OSError as error:  # it ended meanwhile
                    _log.debug("sandbox.not_sampled", sandbox_id=one.sandbox_id, error=str(error))

        await self._in_thread(read)
        for one, at, usage in found:
            before, one.usage = one.usage, usage
            one.ring.add(at, usage)
            for note in _limits_met(one, before, usage, at):
                self.on_note(note)


def _read(one: _Watched) -> Usage:
    """Runs in: a worker thread."""
    now = time.monotonic()
    if one.usage is not None and now - one.whole_at < _WHOLE_EVERY_S and one.source.cpu_used_s() == one.usage.cpu_used_s:
        return one.usage
    one.whole_at = now
    return one.source.usage()


def _limits_met(one: _Watched, before: Usage | None, usage: Usage, at: float) -> list[SandboxNote]:
    """What to tell of the difference between two samples. The first one of an adopted sandbox tells nothing of the past."""
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
