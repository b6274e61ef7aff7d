"""The operator's work on teams in a running server: what needs the sandboxes and builds in memory, beside the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import structlog

from cloister.control.builds.deleting import TemplateDeletion
from cloister.control.sandboxes import Sandboxes
from cloister.control.teams import Teams, check_bounds
from cloister.control.volumes import Volumes
from cloister.errors import UnavailableError
from cloister.model.team import Team, TeamLimits, TeamUse

__all__ = ["TeamAdmin"]

_log = structlog.get_logger("cloister.control")


class TeamAdmin:
    """The use cases behind the routes below ``/admin``."""

    def __init__(self, teams: Teams, sandboxes: Sandboxes, deletion: TemplateDeletion, volumes: Volumes) -> None:
        self.teams = teams
        self._sandboxes = sandboxes
        self._deletion = deletion
        self._removals: set[asyncio.Task[int]] = set()
        self._volumes = volumes

    def limits_of(self, team: Team) -> TeamLimits:
        """The limits that hold for the team: its own, the defaults, and the bounds of every team."""
        return self._sandboxes.quotas.policy.limits(team.limits)

    def use_of(self, team: Team) -> TeamUse:
        """What the team's sandboxes use now."""
        return self._sandboxes.use_of(team.team_id)

    async def limit(self, team: Team, changes: Mapping[str, object]) -> Team:
        """Change limits of the team. Raises: as :meth:`Teams.limit`."""
        changed = await self.teams.limit(team, changes, self._sandboxes.quotas.policy.bounds)
        with contextlib.suppress(UnavailableError):  # told later, by TeamTraffics.run
            await self._sandboxes.traffic.tell()
        _log.info("team.limited", team_id=team.team_id, limits=changed.limits.to_json())
        return changed

    async def create(self, name: str, changes: Mapping[str, object]) -> Team:
        """Make a team with these limits of its own. Raises: as :meth:`Teams.create` and :meth:`Teams.limit`."""
        limits = TeamLimits().changed(changes)
        check_bounds(limits, self._sandboxes.quotas.policy.bounds)
        team = await self.teams.create(name, limits)
        _log.info("team.created", team_id=team.team_id, limits=limits.to_json())
        return team

    async def kill_sandboxes(self, team: Team) -> int:
        """End all sandboxes of the team; returns how many."""
        return await self._sandboxes.kill_team(team.team_id)

    async def remove(self, team: Team, *, kill: bool) -> int:
        """Remove the team, its keys first, then kill its sandboxes; returns how many there were. Goes on without its caller.

        Raises: ConflictError: it has sandboxes, and ``kill`` is false.
        """
        task = asyncio.create_task(self._remove(team, kill=kill))
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for removals under way."""
        await asyncio.gather(*self._removals, return_exceptions=True)

    async def _remove(self, team: Team, *, kill: bool) -> int:
        await self.teams.remove(team, even_with_sandboxes=kill)
        killed = await self._sandboxes.kill_team(team.team_id)
        await self._deletion.delete_of_removed(team.team_id)
        await self._volumes.delete_of_removed(team.team_id)
        _log.info("team.removed", team_id=team.team_id, sandboxes=killed)
        return killed
