"""Bounds of the traffic of all sandboxes of a team together. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cloister.model.bounds import PublicId, within

__all__ = ["TeamTraffic"]


@dataclass(frozen=True, kw_only=True)
class TeamTraffic:
    """Bounds of one team on one node; None: no bound."""

    team_id: PublicId
    mbit_per_s: Annotated[int, within(1, 1_000_000)] | None = None
    """Mbit a second, each way."""
    packets_per_s: Annotated[int, within(1, 100_000_000)] | None = None
    """Packets that its sandboxes send."""
    connections_per_s: Annotated[int, within(1, 1_000_000)] | None = None
    """New connections, questions to the resolver included."""
    volume_mib_per_day: Annotated[int, within(1, 1 << 30)] | None = None
    """All that they send to the internet and get from there in a day (UTC)."""

    @property
    def is_bounded(self) -> bool:
        """Whether there is any bound."""
        return self != TeamTraffic(team_id=self.team_id)
