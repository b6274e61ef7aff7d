"""The limits of a team on its sandboxes: their numbers, processors, memory, disk, and the rate of creations.

A team's own limits are read from the store for each creation and resume, so a change by any process holds from the next one on. The
defaults and the bounds of every team are settings. A running sandbox whose lifetime ends with a pause has its place among the paused ones
from its creation on. So the node never has to kill it because its team has too many paused sandboxes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cloister.control.registry import Registry
from cloister.errors import PermissionDeniedError, QuotaExceededError, RateLimitedError
from cloister.model.lifecycle import TimeoutAction
from cloister.model.sandbox import Sandbox, SandboxState, transition
from cloister.model.team import LIMITS, TeamLimits, TeamUse
from cloister.model.usage import use_of
from cloister.store.sharing import Reservation
from cloister.store.teams import TeamStore

__all__ = ["Quotas", "SandboxPolicy"]

_OPERATOR = "the server's operator can change the limit by `cloister team limit`"
_REMEDIES = {
    "sandboxes": "kill or pause some, or let them expire",
    "paused": "kill some of them",
    "cpu_count": "kill or pause some, or let them expire",
    "mem_mib": "kill or pause some, or let them expire",
    "disk_mib": "kill some, or let them expire",
    "creations_per_s": "wait a moment",
}
_BOUNDS = {"sandboxes": "max_sandboxes_per_team", "paused": "max_paused_per_team", "disk_mib": "max_disk_mib_per_team"}
"""Settings that bound the limits of every team."""


@dataclass(frozen=True, kw_only=True)
class SandboxPolicy:
    """The bounds that a server sets."""

    max_timeout_s: int = 86_400
    max_per_team: int = 1_000
    max_paused_per_team: int = 1_000
    max_disk_mib_per_team: int | None = None
    defaults: TeamLimits = field(default_factory=TeamLimits)
    """The limits of a team that has none of its own."""

    @property
    def bounds(self) -> TeamLimits:
        """The most that any team may have."""
        return TeamLimits(sandboxes=self.max_per_team, paused=self.max_paused_per_team, disk_mib=self.max_disk_mib_per_team)

    def limits(self, own: TeamLimits) -> TeamLimits:
        """The limits that hold for a team with limits of its ``own``."""
        return own.over(self.defaults).at_most(self.bounds)


class _Bucket:
    """A token bucket. A change of the rate holds at once."""

    __slots__ = ("_at", "_tokens")

    def __init__(self, now: float) -> None:
        self._at = now
        self._tokens = float("inf")

    def take(self, rate: float, now: float) -> bool:
        """Take a token, if there is one."""
        self._tokens = min(self._tokens + (now - self._at) * rate, max(1.0, rate))
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Quotas:
    """Checks a team's use. The caller must change the registry before it awaits anything, or two callers take one place.

    Other api processes take places too: the reservation that a check returns is for the write to the store, which checks it again.
    """

    def __init__(self, registry: Registry, policy: SandboxPolicy, teams: TeamStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self.policy = policy
        self._teams = teams
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    async def limits(self, team_id: str) -> TeamLimits:
        """The limits that hold for the team now. Raises: PermissionDeniedError: the team was removed."""
        team = await self._teams.find_team(team_id)
        if team is None:
            raise PermissionDeniedError("the team was removed")
        return self.policy.limits(team.limits)

    def check_creation(self, row: Sandbox, limits: TeamLimits) -> Reservation:
        """Check that the team may have ``row`` too; returns the same conditions for the store.

        Raises:
            QuotaExceededError: a limit is reached.
            RateLimitedError: too many creations came in the last second. Checked last: a refused creation uses up none.
        """
        reservation = self._check(row.team_id, use_of(row), limits, limits.creations_per_s)
        rate = reservation.rate
        if rate is not None and not self._buckets.setdefault(row.team_id, _Bucket(self._clock())).take(rate, self._clock()):
            reservation.refuse()
        return reservation

    def check_resume(self, row: Sandbox, limits: TeamLimits) -> Reservation:
        """As :meth:`check_creation`, for a paused sandbox, whose disk and place are its own already.

        Raises: QuotaExceededError: the team may not run it.
        """
        running = use_of(transition(row, SandboxState.RESUMING))
        return self._check(row.team_id, replace(running, paused=0, disk_mib=0), limits)

    def check_pause(self, row: Sandbox, limits: TeamLimits) -> Reservation:
        """As :meth:`check_creation`, for a pause.

        Raises: QuotaExceededError: the team may have no further paused sandbox, and ``row`` has no place yet.
        """
        has_place = row.lifecycle.on_timeout is not TimeoutAction.KILL
        return self._check(row.team_id, TeamUse() if has_place else TeamUse(paused=1), limits)

    def _check(self, team_id: str, wanted: TeamUse, limits: TeamLimits, rate: float | None = None) -> _Reservation:
        reservation = _Reservation(wanted, limits, rate)
        reservation.check(self._registry.use_of(team_id).plus(wanted))
        return reservation


@dataclass(frozen=True)
class _Reservation:
    """A :class:`~cloister.store.sharing.Reservation` of ``wanted``."""

    wanted: TeamUse
    limits: TeamLimits
    rate: float | None

    def check(self, use: TeamUse) -> None:
        before = use.plus(self.wanted, -1)
        for name in _REMEDIES:
            limit, more = getattr(self.limits, name), getattr(self.wanted, name, 0)
            if limit is not None and more and getattr(use, name) > limit:
                has = f"the team has {getattr(before, name):.15g} {LIMITS[name].what}"
                raise QuotaExceededError(f"{has}, and {more:.15g} more would exceed its limit {name}, {limit:.15g}", hint=_hint(name))

    def refuse(self) -> None:
        message = f"the team creates more than {self.rate:g} sandboxes a second, which is its limit creations_per_s"
        raise RateLimitedError(message, hint=_hint("creations_per_s"))


def _hint(name: str) -> str:
    bound = f", up to the setting {_BOUNDS[name]}" if name in _BOUNDS else ""
    return f"{_REMEDIES[name]}; {_OPERATOR}{bound}"
