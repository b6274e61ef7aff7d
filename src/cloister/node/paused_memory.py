"""Moves the memory of frozen sandboxes out of the host's memory: after a time, and when the host is short of it.

The policy, in this order of preference for each sandbox: a checkpoint, where checkpoints are on; swap, where the host has it; else it stays
as it is. Nothing is ever ended: a host without either keeps the sandboxes, and the reserve (``memory_reserve.py``) refuses new ones.

::

    frozen for after_s and worth it             moved
    available memory below twice the reserve    moved, longest paused first, until there is more
    below the reserve                           and nothing is created or resumed

Invariant: one sandbox is moved at a time, because each move reads all of its memory. Runs in: the supervisor's event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import structlog

from cloister.errors import CloisterError
from cloister.linux.meminfo import HostMemory, host_memory

__all__ = ["FrozenSandbox", "FrozenSandboxes", "MemoryPolicy", "Move", "PausedMemory", "Way", "Ways", "choose"]

_log = structlog.get_logger("cloister.node")
_INTERVAL_S = 5.0
_MIB = 1 << 20
_LOW = 2
"""The host is low on memory when less than so many times the reserve is available."""


class Way(StrEnum):
    """A way out of the host's memory, the best one first."""

    CHECKPOINT = "checkpoint"
    SWAP = "swap"


@dataclass(frozen=True, kw_only=True)
class FrozenSandbox:
    """A frozen sandbox and what it holds, without its page cache, which the kernel takes back by itself."""

    sandbox_id: str
    frozen_at: float
    resident: int
    """Bytes in memory."""
    swapped: int
    """Bytes in swap."""
    is_refused: bool = False
    """A checkpoint of it was refused, or its runtime makes none."""


@dataclass(frozen=True, kw_only=True)
class MemoryPolicy:
    """The numbers of the policy."""

    reserve: int
    """Bytes that the host keeps available."""
    after_s: float
    """A sandbox that was frozen for so long is moved."""
    worth: int = 8 * _MIB
    """A sandbox with fewer bytes in memory is moved only when the host is low on memory."""
    least: int = _MIB
    """One with fewer is never moved: nothing would be won."""


@dataclass(frozen=True)
class Move:
    """The next move, and why."""

    sandbox_id: str
    way: Way
    is_urgent: bool
    """The host is low on memory."""


@dataclass(frozen=True)
class Ways:
    """The ways that are open."""

    checkpoints: bool = False
    tried: Mapping[tuple[str, Way], float] = field(default_factory=dict)
    """The moves that were made or that failed, with the pause (``frozen_at``) of each: what they left in memory stays there."""

    def first(self, one: FrozenSandbox, host: HostMemory) -> Way | None:
        """The best one for a sandbox."""
        is_open = {Way.CHECKPOINT: self.checkpoints and not one.is_refused, Way.SWAP: host.swap_free >= one.resident}
        return next((way for way in Way if is_open[way] and self.tried.get((one.sandbox_id, way)) != one.frozen_at), None)


def choose(frozen: Sequence[FrozenSandbox], host: HostMemory, policy: MemoryPolicy, ways: Ways, now: float) -> Move | None:
    """The sandbox to move next; None: none needs it, or none can be moved."""
    is_low = host.available < _LOW * policy.reserve
    for one in sorted(frozen, key=lambda one: one.frozen_at):
        is_due = now - one.frozen_at >= policy.after_s and one.resident >= policy.worth
        if not (is_due or is_low) or one.resident < policy.least:
            continue
        if (way := ways.first(one, host)) is not None:
            return Move(one.sandbox_id, way, is_low)
    return None


class FrozenSandboxes(Protocol):
    """The frozen sandboxes of a node."""

    async def frozen(self) -> Sequence[FrozenSandbox]:
        """Each of them, measured now."""
        ...

    async def page_out(self, sandbox_id: str) -> None:
        """Move the memory of one to swap. Raises: CloisterError, OSError."""
        ...


class PausedMemory:
    """One task, :meth:`run`. The numbers of its last look are :meth:`counts`."""

    def __init__(
        self,
        sandboxes: FrozenSandboxes,
        policy: MemoryPolicy,
        *,
        checkpoint: Callable[[str], Awaitable[object]] | None = None,
        can_checkpoint: Callable[[], bool] = lambda: True,
        look: Callable[[], HostMemory] = host_memory,
    ) -> None:
        """``checkpoint`` writes a frozen sandbox to disk and ends its processes, or raises and leaves it frozen; None: that is off.

        ``can_checkpoint`` tells whether it works now.
        """
        self._sandboxes = sandboxes
        self._checkpoint = checkpoint
        self._can_checkpoint = can_checkpoint
        self._policy = policy
        self._look = look
        self._frozen: Sequence[FrozenSandbox] = ()
        self._tried: dict[tuple[str, Way], float] = {}
        self._moved = dict.fromkeys(Way, 0)
        self._failed = 0
        self._is_stuck = False

    def counts(self) -> dict[str, int]:
        """Bytes ``resident`` and ``swapped`` of frozen sandboxes, and the moves since the start.

        ``stuck`` is 1 while the host is low on memory and no frozen sandbox can be moved.
        """
        return {
            "resident": sum(one.resident for one in self._frozen),
            "swapped": sum(one.swapped for one in self._frozen),
            "checkpointed": self._moved[Way.CHECKPOINT],
            "paged_out": self._moved[Way.SWAP],
            "not_moved": self._failed,
            "stuck": int(self._is_stuck),
        }

    async def run(self, interval_s: float = _INTERVAL_S) -> None:
        """Look for ever. A look makes every move that is due."""
        while True:
            try:
                await self.relieve()
            except (CloisterError, OSError):  # task border: the next look tries again
                _log.exception("paused_memory.not_surveyed")
            await asyncio.sleep(interval_s)

    async def relieve(self) -> None:
        """Make moves until none is due. Each is followed by a new look, as it changes what is available."""
        while True:
            self._frozen = frozen = await self._sandboxes.frozen()
            ids = {one.sandbox_id for one in frozen}
            self._tried = {key: at for key, at in self._tried.items() if key[0] in ids}
            host = self._look()
            move = choose(frozen, host, self._policy, self._ways(), time.time())
            if move is None:
                self._tell(host)
                return
            await self._make(move, next(one for one in frozen if one.sandbox_id == move.sandbox_id))

    def _ways(self) -> Ways:
        return Ways(self._checkpoint is not None and self._can_checkpoint(), self._tried)

    async def _make(self, move: Move, one: FrozenSandbox) -> None:
        self._tried[one.sandbox_id, move.way] = one.frozen_at
        began = time.monotonic()
        try:
            if move.way is Way.CHECKPOINT and self._checkpoint is not None:
                await self._checkpoint(one.sandbox_id)
            else:
                await self._sandboxes.page_out(one.sandbox_id)
        except (CloisterError, OSError) as error:
            self._failed += 1
            _log.warning("paused_memory.not_moved", sandbox_id=one.sandbox_id, way=move.way, error=str(error))
        else:
            self._moved[move.way] += 1
            seconds = round(time.monotonic() - began, 3)
            _log.info(
                "paused_memory.moved",
                sandbox_id=one.sandbox_id,
                way=move.way,
                mib=one.resident // _MIB,
                urgent=move.is_urgent,
                seconds=seconds,
            )

    def _tell(self, host: HostMemory) -> None:
        """Log once when the host is low on memory and nothing more can be done about it, and once when that is over."""
        resident = sum(one.resident for one in self._frozen)
        is_stuck = host.available < _LOW * self._policy.reserve and resident >= self._policy.least
        if is_stuck != self._is_stuck:
            self._is_stuck = is_stuck
            tell = _log.warning if is_stuck else _log.info
            tell(
                "paused_memory.stuck" if is_stuck else "paused_memory.recovered",
                available_mib=host.available // _MIB,
                frozen=len(self._frozen),
                resident_mib=resident // _MIB,
                swap_free_mib=host.swap_free // _MIB,
                hint="add swap, turn checkpoints on, or end paused sandboxes; until then new ones are refused below the reserve",
            )
