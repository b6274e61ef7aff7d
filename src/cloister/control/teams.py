"""Teams: create, find, limit, remove. Knows the store alone and writes no log, so it works as a command too, beside a
running server and without one.

Invariant: a team's name cannot be taken for an id, so that one text refers to at most one team.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from cloister.errors import AlreadyExistsError, ConflictError, InvalidRequestError, NotFoundError
from cloister.ids import new_team_id
from cloister.model.team import Team, TeamLimits
from cloister.store.base import Store

__all__ = ["DEFAULT_TEAM", "Teams", "check_bounds", "check_name"]

DEFAULT_TEAM = "default"
_MAX_NAME_LENGTH = 128
_ID_PREFIX = "team_"


class Teams:
    """The use cases about teams."""

    def __init__(self, store: Store) -> None:
        self._store = store.teams

    async def list(self) -> Sequence[Team]:
        """All teams, oldest first."""
        return await self._store.list_teams()

    async def find(self, text: str) -> Team:
        """The team of that id or name. Raises: NotFoundError."""
        for team in await self._store.list_teams():
            if text in (team.team_id, team.name):
                return team
        raise NotFoundError(f"there is no team {text[:200]!r}", hint="see `cloister team list`")

    async def create(self, name: str, limits: TeamLimits | None = None) -> Team:
        """Make a team. Raises: InvalidRequestError, AlreadyExistsError."""
        check_name("a team's name", name)
        if name.startswith(_ID_PREFIX):
            raise InvalidRequestError(f"a team's name must not begin with {_ID_PREFIX}, as ids do")
        team = Team(team_id=new_team_id(), name=name, created_at=time.time(), limits=limits or TeamLimits())
        try:
            await self._store.add_team(team)
        except AlreadyExistsError as error:
            raise AlreadyExistsError(f"there is a team {name!r} already") from error
        return team

    async def ensure(self, name: str) -> Team:
        """The team of that name or id; makes it if there is none. Raises: InvalidRequestError."""
        check_name("a team's name", name)
        try:
            return await self.find(name)
        except NotFoundError:
            pass
        try:
            return await self.create(name)
        except AlreadyExistsError:  # another process made it meanwhile
            return await self.find(name)

    async def limit(self, team: Team, changes: Mapping[str, object], bounds: TeamLimits) -> Team:
        """Change limits of the team, by name; None takes one away. Holds from the next creation on.

        Raises:
            InvalidRequestError: no such limit, or a value out of its range or above the ``bounds`` of every team.
            NotFoundError: the team was removed.
        """
        changed = TeamLimits().changed(changes)
        check_bounds(changed, bounds)
        if not await self._store.change_limits(team.team_id, {name: getattr(changed, name) for name in changes}):
            raise NotFoundError(f"the team {team.team_id} was removed")
        return await self.find(team.team_id)

    async def goods(self, team: Team) -> Mapping[str, int]:
        """How many keys, templates, snapshots, secrets and live sandboxes the team has."""
        return await self._store.count_goods(team.team_id)

    async def remove(self, team: Team, *, even_with_sandboxes: bool, ends_sandboxes: bool = False) -> None:
        """Remove the team with its keys, secrets, templates and snapshots. From then on it gets no new sandbox.

        ``ends_sandboxes``: no server runs, so the rows of its sandboxes end here, and the next start kills the sandboxes. Else the caller
        kills them. Raises: ConflictError: it has sandboxes, and ``even_with_sandboxes`` is false.
        """
        now = time.time()
        if not await self._store.remove_team(team.team_id, now, even_with_sandboxes=even_with_sandboxes, ends_sandboxes=ends_sandboxes):
            count, hint = (await self.goods(team))["sandboxes"], "kill them first, or give --kill (kill=true)"
            raise ConflictError(f"the team {team.name!r} has {count} live or paused sandboxes", hint=hint)


def check_bounds(limits: TeamLimits, bounds: TeamLimits) -> None:
    """Raises: InvalidRequestError: a limit is above what any team may have."""
    lowered = limits.at_most(bounds).to_json()
    for name, value in limits.to_json().items():
        if value > lowered[name]:
            setting = f"max_{name}_per_team"
            raise InvalidRequestError(f"the limit {name} may be at most {lowered[name]:g}", hint=f"the server's setting {setting}")


def check_name(what: str, name: str) -> None:
    """Raises: InvalidRequestError: the name is empty, too long, or would break a line of `cloister key list`."""
    if not name or len(name) > _MAX_NAME_LENGTH or not name.isprintable():
        raise InvalidRequestError(f"{what} must be 1 to {_MAX_NAME_LENGTH} printable characters")
