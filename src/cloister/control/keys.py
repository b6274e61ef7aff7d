"""Teams and API keys: make, list, revoke, and tell whose a key is.

Invariant: a key's secret is shown once, when it is made; only its sha256 is kept. A lookup by that hash gives away nothing by its
timing, and revocation holds from the next request on, because nothing is cached.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence

from cloister.errors import AlreadyExistsError, AuthenticationError, InvalidRequestError, NotFoundError
from cloister.ids import new_api_key
from cloister.store.base import ApiKey, Store, Team

__all__ = ["DEFAULT_TEAM", "Keys"]

DEFAULT_TEAM = "default"
_MAX_KEY_LENGTH = 200


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """The use cases about teams and keys, on one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def authenticate(self, key: str | None) -> Team:
        """The team whose key this is.

        Raises:
            AuthenticationError: no key, an unknown one, or one that was revoked.
        """
        if not key:
            raise AuthenticationError("no API key was given", hint="send it as X-API-KEY, or set E2B_API_KEY")
        team = await self._store.find_team_by_key(_hash(key)) if len(key) <= _MAX_KEY_LENGTH else None
        if team is None:
            raise AuthenticationError("the API key is not valid", hint="make one by `cloister key create`")
        return team

    async def ensure_default_team(self) -> Team:
        """The default team, made if there is no team yet."""
        teams = await self._store.list_teams()
        return teams[0] if teams else await self._make_team(DEFAULT_TEAM)

    async def create(self, team_name: str, name: str) -> tuple[ApiKey, str]:
        """Make a key for the team (and the team, if it is new); returns it and its secret, which is not kept."""
        if not team_name or not name:
            raise InvalidRequestError("a team and a key need a name")
        team = await self._find_team(team_name) or await self._make_team(team_name)
        secret = new_api_key()
        key = ApiKey(
            key_id="key_" + secrets.token_hex(6),
            team_id=team.team_id,
            name=name,
            key_hash=_hash(secret),
            hint=f"{secret[:8]}…{secret[-4:]}",
            created_at=time.time(),
        )
        await self._store.add_key(key)
        return key, secret

    async def list(self) -> Sequence[tuple[ApiKey, Team]]:
        """All keys with their teams, oldest first."""
        teams = {team.team_id: team for team in await self._store.list_teams()}
        return [(key, teams[key.team_id]) for key in await self._store.list_keys()]

    async def revoke(self, key_id: str) -> None:
        """Revoke a key for good.

        Raises:
            NotFoundError: there is none of that id, or it was revoked before.
        """
        if not await self._store.revoke_key(key_id, time.time()):
            raise NotFoundError(f"there is no key {key_id} that is not revoked yet", hint="see `cloister key list`")

    async def _find_team(self, name: str) -> Team | None:
        return next((team for team in await self._store.list_teams() if team.name == name), None)

    async def _make_team(self, name: str) -> Team:
        team = Team(team_id="team_" + secrets.token_hex(8), name=name, created_at=time.time())
        try:
            await self._store.add_team(team)
        except AlreadyExistsError:
            found = await self._find_team(name)
            if found is None:
                raise
            return found
        return team
