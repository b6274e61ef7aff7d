"""A team's use over time. Plain data: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TeamPoint", "TeamSample"]


@dataclass(frozen=True, kw_only=True)
class TeamSample:
    """The sandboxes of a team in the interval that ends ``at`` (epoch seconds)."""

    team_id: str
    at: float
    peak: int
    """The most sandboxes that ran at once."""
    starts: int
    """Sandboxes that were created."""


@dataclass(frozen=True, kw_only=True)
class TeamPoint:
    """One or more samples, as clients see them. The last one ends ``at`` (epoch seconds)."""

    at: float
    peak: int
    """The most sandboxes that ran at once."""
    starts_per_s: float
    """Sandboxes that were created in a second, on average of the busiest minute."""
