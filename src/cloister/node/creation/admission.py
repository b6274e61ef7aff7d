"""Admits or refuses a creation, a pause or a resume, by the node's limits, its memory, and what the teams' sandboxes hold already (I6).

The api process checks its own quotas exactly. These checks hold also when it is compromised. Event loop only, except where said.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cloister.errors import AlreadyExistsError
from cloister.model.lifecycle import PauseKind
from cloister.model.sandbox import SandboxRecord, SandboxRequest, SandboxState
from cloister.node.drain import Drain
from cloister.node.limits import NodeLimits
from cloister.node.live import LiveSandboxes
from cloister.node.memory_reserve import MemoryReserve

__all__ = ["Admission"]


@dataclass(frozen=True)
class _Pending:
    team_id: str
    disk_mib: int


class Admission:
    """Counts the creations under way, and the live sandboxes with them."""

    def __init__(self, limits: NodeLimits, live: LiveSandboxes, reserve: MemoryReserve, drain: Drain) -> None:
        self._limits = limits
        self._live = live
        self._reserve = reserve
        self._drain = drain
        self._pending: dict[str, _Pending] = {}

    def ids(self) -> set[str]:
        """The sandboxes that are being created. May be called from any thread."""
        return set(self._pending)

    def admit(self, request: SandboxRequest, disk_mib: int) -> None:
        """Count a creation, with the size of its disk, from now until the end of :meth:`settling`.

        Raises: AlreadyExistsError, InvalidRequestError, NoCapacityError, QuotaExceededError, UnavailableError (the node is drained); the
        creation does not count then.
        """
        self._drain.check_creation()
        sandbox_id = request.sandbox_id
        if sandbox_id in self._pending or self._live.is_taken(sandbox_id):
            raise AlreadyExistsError(f"there is a sandbox {sandbox_id} already")
        pending = _Pending(request.team_id, disk_mib)
        self._check(request, pending)
        self._pending[sandbox_id] = pending

    def check_pause(self, record: SandboxRecord) -> None:
        """Raises: QuotaExceededError, NoCapacityError: the sandbox may not be paused, as there are too many paused ones."""
        teams = [one.team_id for one in self._live.counted() if one.state in (SandboxState.PAUSING, SandboxState.PAUSED)]
        self._limits.check_paused(teams.count(record.team_id), len(teams))

    def check_image(self, record: SandboxRecord) -> None:
        """Raises: QuotaExceededError: the memory of a paused sandbox may not go to disk, as its team has too little left of its disk."""
        held = self._disk_of(record.team_id)
        self._limits.check_team(held, 0 if _has_image(record) else record.limits.mem_mib)

    def check_resume(self, record: SandboxRecord, end_at: float, image_bytes: int = 0) -> None:
        """The paused sandbox may run until ``end_at``; its memory is to be read from an image of so many bytes.

        Raises: InvalidRequestError, QuotaExceededError, NoCapacityError, UnavailableError: it may not.
        """
        self._drain.check_resume()
        self._limits.check_deadline(end_at, time.time())
        self._reserve.check(image_bytes)
        self._check_count(record.team_id, holds_slot=record.is_frozen)

    @contextmanager
    def settling(self, sandbox_id: str) -> Iterator[None]:
        """The creation is made in the block. After it, the sandbox is live or there is none, and the creation counts no more."""
        try:
            yield
        finally:
            del self._pending[sandbox_id]

    def _check(self, request: SandboxRequest, pending: _Pending) -> None:
        limits = self._limits
        limits.check_deadline(request.end_at, time.time())
        if request.limits is not None:
            limits.check(request.limits)
        self._check_count(request.team_id)
        if request.team_id:
            limits.check_team(self._disk_of(request.team_id), pending.disk_mib)
        self._reserve.check()

    def _disk_of(self, team_id: str) -> int:
        """MiB that a team's sandboxes have, and those that are being created."""
        held = sum(_disk_mib(record) for record in self._live.counted() if record.team_id == team_id)
        return held + sum(one.disk_mib for one in self._pending.values() if one.team_id == team_id)

    def _check_count(self, team_id: str, *, holds_slot: bool = False) -> None:
        """A team's paused sandboxes are counted apart. On the node, frozen ones count, because each holds a slot of the host.

        ``holds_slot``: the sandbox that is to be counted is one of those.
        """
        live = self._live.counted()
        teams = [record.team_id for record in live if record.state is not SandboxState.PAUSED]
        teams += [one.team_id for one in self._pending.values()]
        frozen = sum(record.is_frozen for record in live)
        self._limits.check_count(teams.count(team_id), len(teams) + frozen - holds_slot)


def _disk_mib(record: SandboxRecord) -> int:
    """The bound of a sandbox on the host's disk: its own disk, and its memory if that is saved there."""
    return record.limits.disk_mib + (record.limits.mem_mib if _has_image(record) else 0)


def _has_image(record: SandboxRecord) -> bool:
    return record.pause is not None and record.pause.kind is PauseKind.CHECKPOINT
