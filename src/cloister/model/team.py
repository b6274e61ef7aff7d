"""Teams, their limits and use, and API keys. Plain data: no I/O, no clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cloister.errors import InvalidRequestError

__all__ = ["LIMITS", "ApiKey", "KeyScope", "LimitRange", "Team", "TeamLimits", "TeamUse"]


@dataclass(frozen=True)
class LimitRange:
    """The values that one limit of a team may have."""

    what: str
    """The limited thing in words, with its unit."""
    least: float
    most: float
    is_whole: bool = True


@dataclass(frozen=True, kw_only=True)
class TeamLimits:
    """Limits of one team. None: a team without a limit of its own here, or a default that is no limit."""

    sandboxes: int | None = None
    """Live sandboxes that are not paused."""
    paused: int | None = None
    """Sandboxes that are paused, or will be at the end of their lifetime."""
    cpu_count: float | None = None
    """Processors of all sandboxes that are not paused."""
    mem_mib: int | None = None
    """Memory of the same."""
    disk_mib: int | None = None
    """Disks of all live sandboxes, paused ones too. Each counts with its full size."""
    creations_per_s: float | None = None
    """Creations a second. As many may come at once, at least one."""
    network_mbit_per_s: int | None = None
    """Traffic of all its sandboxes together, each way; likewise below (model/team_traffic.py)."""
    network_packets_per_s: int | None = None
    network_connections_per_s: int | None = None
    network_volume_mib_per_day: int | None = None

    def over(self, defaults: TeamLimits) -> TeamLimits:
        """These limits, and the ``defaults`` where there is none."""
        return dataclasses.replace(defaults, **self.to_json())

    def at_most(self, bounds: TeamLimits) -> TeamLimits:
        """These limits, lowered to the ``bounds``."""
        lowered = {name: _lower(getattr(self, name), getattr(bounds, name)) for name in LIMITS}
        return TeamLimits(**lowered)

    def to_json(self) -> dict[str, Any]:
        """The limits that are set, by name."""
        return {name: value for name in LIMITS if (value := getattr(self, name)) is not None}

    def changed(self, changes: Mapping[str, object]) -> TeamLimits:
        """With ``changes`` by name; None takes a limit away. Raises: InvalidRequestError: an unknown name, or a value out of its range."""
        values: dict[str, Any] = {name: None if value is None else _checked(name, value) for name, value in changes.items()}
        return dataclasses.replace(self, **values)


def _lower(value: float | None, bound: float | None) -> Any:
    return value if bound is None else bound if value is None else min(value, bound)


def _checked(name: str, value: object) -> float:
    if (known := LIMITS.get(name)) is None:
        raise InvalidRequestError(f"{name[:100]!r} is no limit of a team", hint=f"the limits are {', '.join(LIMITS)}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not known.least <= value <= known.most:
        raise InvalidRequestError(f"the limit {name} must be a number from {known.least:g} to {known.most:.15g}")
    if known.is_whole:
        if value != int(value):
            raise InvalidRequestError(f"the limit {name} must be a whole number")
        return int(value)
    return float(value)


_MOST_MIB = 1 << 40
LIMITS: dict[str, LimitRange] = {
    "sandboxes": LimitRange("live sandboxes", 0, 1_000_000),
    "paused": LimitRange("sandboxes that are paused or will be at their time-out", 0, 1_000_000),
    "cpu_count": LimitRange("processors of live sandboxes", 0, 1_000_000, is_whole=False),
    "mem_mib": LimitRange("MiB of memory of live sandboxes", 0, _MOST_MIB),
    "disk_mib": LimitRange("MiB of disk of all sandboxes", 0, _MOST_MIB),
    "creations_per_s": LimitRange("creations a second", 0.001, 100_000, is_whole=False),
    "network_mbit_per_s": LimitRange("Mbit a second of all its sandboxes, each way", 1, 1_000_000),
    "network_packets_per_s": LimitRange("packets a second that all its sandboxes send", 100, 100_000_000),
    "network_connections_per_s": LimitRange("new connections a second of all its sandboxes", 1, 1_000_000),
    "network_volume_mib_per_day": LimitRange("MiB to and from the internet in a day (UTC) of all its sandboxes", 1, 1 << 30),
}
"""The limits of a team by name, in the order in which they are shown."""


@dataclass(frozen=True, kw_only=True)
class TeamUse:
    """The use of the limits with the same names, by a team or by one of its sandboxes."""

    sandboxes: int = 0
    paused: int = 0
    cpu_count: float = 0.0
    mem_mib: int = 0
    disk_mib: int = 0

    def plus(self, other: TeamUse, times: int = 1) -> TeamUse:
        """Both together. Processors are rounded, so that sums of fractions return to zero."""
        sums = {one.name: getattr(self, one.name) + times * getattr(other, one.name) for one in dataclasses.fields(self)}
        return TeamUse(**{**sums, "cpu_count": round(sums["cpu_count"], 3)})


@dataclass(frozen=True, kw_only=True)
class Team:
    """An owner of sandboxes, templates and keys."""

    team_id: str
    name: str
    created_at: float
    limits: TeamLimits = field(default_factory=TeamLimits)
    """The limits of its own."""


class KeyScope(StrEnum):
    """What a key gives access to."""

    TEAM = "team"
    """The API, acting as the key's team."""
    METRICS = "metrics"
    """``GET /metrics``, of all teams, and nothing else; the key belongs to the operator and to no team."""
    ADMIN = "admin"
    """The routes below ``/admin`` and ``GET /audit``, of all teams, and nothing else; the key belongs to the operator and to no team."""


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """An API key as the store keeps it: a hash, never the secret."""

    key_id: str
    scope: KeyScope = KeyScope.TEAM
    team_id: str | None
    """None if, and only if, the scope is not ``TEAM``."""
    name: str
    key_hash: str
    hint: str
    """First and last characters of the secret, with an ellipsis between them."""
    created_at: float
    revoked_at: float | None = None
    expires_at: float | None = None
    """None: it is valid until it is revoked."""
    last_used_at: float | None = None
    """Of its last use, at most a minute before that."""
    created_by: str | None = None
    """Id of the key that a client made it with; None: an operator made it on the host."""

    def is_expired(self, now: float) -> bool:
        """Whether its time is over at ``now``."""
        return self.expires_at is not None and self.expires_at <= now
