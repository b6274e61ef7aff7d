"""Tells the node which teams' traffic is bounded, and how: each team's limits ``network_*``.

Owns the table that the node was told last. Invariant: a sandbox of a team starts only after the node was told of the limits that hold for
the team then. Other processes change limits in the store, so the table is read again from time to time, for live sandboxes.
"""

from __future__ import annotations

import asyncio

import structlog

from cloister.cluster.base import NodeClient
from cloister.control.quotas import SandboxPolicy
from cloister.errors import CloisterError
from cloister.model.team import TeamLimits
from cloister.model.team_traffic import TeamTraffic
from cloister.nodewire.requests import SetTeamTraffic
from cloister.store.teams import TeamStore

__all__ = ["TeamTraffics"]

_log = structlog.get_logger("cloister.control")
_LOOK_S = 10.0


class TeamTraffics:
    """The bounds of all teams' traffic, as the store and the settings have them."""

    def __init__(self, node: NodeClient, teams: TeamStore, policy: SandboxPolicy) -> None:
        self._node = node
        self._teams = teams
        self._policy = policy
        self._told: dict[str, TeamTraffic] | None = None
        """By team; None: the node was told nothing yet, and may have bounds of an earlier api process."""
        self._turn = asyncio.Lock()

    async def follow(self, team_id: str, limits: TeamLimits) -> None:
        """Return once the node follows the ``limits`` that hold for the team. Raises: the node's errors; StoreError."""
        if self._told is not None and self._told.get(team_id) == _bounded(team_id, limits):
            return
        await self.tell()

    async def tell(self) -> None:
        """Tell the node of the store's limits, if they changed. Raises: as :meth:`follow`."""
        async with self._turn:
            teams = await self._teams.list_teams()
            found = {team.team_id: _bounded(team.team_id, self._policy.limits(team.limits)) for team in teams}
            wanted = {team_id: traffic for team_id, traffic in found.items() if traffic is not None}
            if wanted != self._told:
                await self._node.set_team_traffic(SetTeamTraffic(tuple(wanted.values())))
                self._told = wanted

    async def run(self) -> None:
        """Keep the node up to date for ever."""
        while True:
            try:
                await self.tell()
            except CloisterError as error:  # the next look tells it
                _log.warning("team_traffic.not_told", error=str(error))
            await asyncio.sleep(_LOOK_S)


def _bounded(team_id: str, limits: TeamLimits) -> TeamTraffic | None:
    """The team's bounds; None: it has none."""
    traffic = TeamTraffic(
        team_id=team_id,
        mbit_per_s=limits.network_mbit_per_s,
        packets_per_s=limits.network_packets_per_s,
        connections_per_s=limits.network_connections_per_s,
        volume_mib_per_day=limits.network_volume_mib_per_day,
    )
    return traffic if traffic.is_bounded else None
