"""API keys: create, list, rename, revoke, authenticate.

Invariants: a key's secret is shown once, when it is made; the store keeps only its sha256. The time of a lookup by this hash reveals
nothing about the secret. Keys are not cached, so a revocation takes effect at the next request. A key that a client makes belongs to the
client's team, and does not outlive the key that it was made with: it expires and is revoked with it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import structlog

from cloister.control.builds.background import BackgroundTasks
from cloister.control.teams import DEFAULT_TEAM, Teams, check_name
from cloister.errors import (
    AuthenticationError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    StorageFullError,
    StoreError,
)
from cloister.ids import is_key_id, new_admin_key, new_api_key, new_bearer_token, new_key_id, new_metrics_key
from cloister.model.team import ApiKey, KeyScope, Team
from cloister.store.base import Store

__all__ = ["Caller", "HashedKey", "Keys"]

_log = structlog.get_logger("cloister.control")
_DEFAULT_KEY = "default"
_MAX_KEY_LENGTH = 200
_MAX_KEYS = 200
"""Valid keys of one team that clients make. Operators may make more."""
_LATEST_END = datetime.max.replace(tzinfo=UTC).timestamp()
"""No list could show a later time."""
_USE_S = 60.0
"""The time of a key's last use is stored at most once in this time."""
_REMEDIES = {KeyScope.METRICS: "make one by `cloister key create --metrics`", KeyScope.ADMIN: "make one by `cloister key create --admin`"}
_OPENS = {KeyScope.METRICS: "/metrics of the whole server", KeyScope.ADMIN: "the routes below /admin"}


@dataclasses.dataclass(frozen=True)
class Caller:
    """A client, by its key."""

    key: ApiKey
    team: Team


@dataclasses.dataclass(frozen=True)
class HashedKey:
    """A key that was shown before, by its sha256: the key of a console's session."""

    sha256: str = dataclasses.field(repr=False)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """The use cases about keys."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store.teams
        self._teams = Teams(store)
        self._clock = clock
        self._background = BackgroundTasks()
        self._noting: set[str] = set()

    async def close(self) -> None:
        """Wait for writes under way."""
        await self._background.wait()

    # ---- authentication ----

    async def authenticate(self, key: str | HashedKey | None) -> Caller:
        """The key and the team whose key it is.

        Raises:
            AuthenticationError: the key is missing, unknown, revoked, expired, or not a team's.
        """
        if not key:
            raise AuthenticationError("no API key was given", hint="send it as X-API-KEY, or set E2B_API_KEY")
        found = await self._find(key)
        if found is None or found[1] is None:
            raise AuthenticationError("the API key is not valid", hint="make one by `cloister key create`")
        return Caller(found[0], found[1])

    async def check_scope(self, key: str | HashedKey | None, scope: KeyScope) -> ApiKey:
        """Check an operator's key for ``GET /metrics`` or for the routes below ``/admin``.

        Raises:
            AuthenticationError: the key is missing, unknown, revoked or expired.
            PermissionDeniedError: it is of another scope.
        """
        if not key:
            raise AuthenticationError(f"no {scope} key was given", hint="send it as Authorization: Bearer")
        found = await self._find(key)
        if found is None:
            raise AuthenticationError(f"the {scope} key is not valid", hint=_REMEDIES[scope])
        if found[0].scope is not scope:
            raise PermissionDeniedError(f"a key of the scope {found[0].scope} gives no access to {_OPENS[scope]}", hint=_REMEDIES[scope])
        return found[0]

    async def identify(self, key_shown: str | HashedKey) -> tuple[HashedKey, ApiKey, Team | None]:
        """A key of a team, or of the operator, and then of no team.

        Raises:
            AuthenticationError: it is unknown, revoked or expired, or of the scope ``metrics``.
        """
        found = await self._find(key_shown)
        if found is None or found[0].scope is KeyScope.METRICS:
            raise AuthenticationError("the API key is not valid", hint="make one by `cloister key create`")
        return HashedKey(found[0].key_hash), *found

    async def _find(self, key_shown: str | HashedKey) -> tuple[ApiKey, Team | None] | None:
        if isinstance(key_shown, HashedKey):
            found = await self._store.find_key(key_shown.sha256)
        else:
            found = await self._store.find_key(_hash(key_shown)) if len(key_shown) <= _MAX_KEY_LENGTH else None
        if found is None:
            return None
        key, now = found[0], self._clock()
        if key.expires_at is not None and key.is_expired(now):
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(key.expires_at))
            raise AuthenticationError(f"the API key expired at {when}", hint="make another one by `cloister key create`")
        if key.key_id not in self._noting and (key.last_used_at is None or not 0 <= now - key.last_used_at < _USE_S):
            self._noting.add(key.key_id)
            self._background.run(self._note_use(key.key_id, now))
        return found

    async def _note_use(self, key_id: str, at: float) -> None:
        try:
            await self._store.note_use(key_id, at)
        except (StoreError, StorageFullError):
            _log.exception("key.use_unstored", key_id=key_id)
        finally:
            self._noting.discard(key_id)

    async def ensure_default_key(self, secret: str | None) -> str:
        """The default team's key for programs on this machine: ``secret`` if it is valid, else a new one.

        Empty if the newest default key was revoked, or the default team was removed while there are others: neither must be replaced
        without the operator.
        """
        if not await self._teams.list():
            await self._teams.ensure(DEFAULT_TEAM)
        if secret and len(secret) <= _MAX_KEY_LENGTH:
            found = await self._store.find_key(_hash(secret))
            if found is not None and found[1] is not None:
                return secret
        teams = [team.team_id for team in await self._teams.list() if team.name == DEFAULT_TEAM]
        if not teams:
            return ""
        keys = await self._store.list_keys(teams[0])
        made = [key for key in keys if key.name == _DEFAULT_KEY and key.created_by is None]
        if made and made[-1].revoked_at is not None:
            return ""
        _, secret = await self.create(DEFAULT_TEAM, _DEFAULT_KEY)
        return secret

    # ---- creation ----

    async def create(self, team_name: str, name: str, expires_at: float | None = None) -> tuple[ApiKey, str]:
        """Make a key for the team, and the team if it is new; returns the key and its secret, which is not stored."""
        check_name("a key's name", name)
        team = await self._teams.ensure(team_name)
        return await self._add(new_api_key(), name, expires_at, team_id=team.team_id)

    async def create_for(self, team: Team, name: str, expires_at: float | None = None) -> tuple[ApiKey, str]:
        """As :meth:`create`, for a team that exists."""
        check_name("a key's name", name)
        return await self._add(new_api_key(), name, expires_at, team_id=team.team_id)

    async def create_for_operator(self, scope: KeyScope, name: str, expires_at: float | None = None) -> tuple[ApiKey, str]:
        """Make a key of no team; returns the key and its secret, which is not stored."""
        check_name("a key's name", name)
        secret = new_metrics_key() if scope is KeyScope.METRICS else new_admin_key()
        return await self._add(secret, name, expires_at, scope=scope)

    @asynccontextmanager
    async def admin_key(self, lifetime_s: float) -> AsyncIterator[str]:
        """The secret of a key of the scope ``admin`` that there is only in the block."""
        key, secret = await self.create_for_operator(KeyScope.ADMIN, "for one command", self._clock() + lifetime_s)
        try:
            yield secret
        finally:
            await self._store.forget_key(key.key_id)

    async def create_by(self, caller: Caller, name: str, expires_at: float | None = None, *, is_token: bool = False) -> tuple[ApiKey, str]:
        """Make a key for the team of the caller. It expires with the caller's key, or earlier.

        ``is_token``: it has the official form of a personal access token. Raises: InvalidRequestError, QuotaExceededError.
        """
        check_name("a key's name", name)
        ends = [at for at in (caller.key.expires_at, expires_at) if at is not None]
        secret = new_bearer_token() if is_token else new_api_key()
        return await self._add(secret, name, min(ends, default=None), team_id=caller.team.team_id, maker=caller.key)

    async def _add(
        self,
        secret: str,
        name: str,
        expires_at: float | None,
        *,
        scope: KeyScope = KeyScope.TEAM,
        team_id: str | None = None,
        maker: ApiKey | None = None,
    ) -> tuple[ApiKey, str]:
        now = self._clock()
        if expires_at is not None and expires_at <= now:
            raise InvalidRequestError("the key would expire at once", hint="give a time in the future")
        if expires_at is not None and expires_at >= _LATEST_END:
            raise InvalidRequestError("the key would expire after the year 9999", hint="give an earlier time, or none")
        shown = secret.rindex("_") + 5
        key = ApiKey(
            key_id=new_key_id(),
            scope=scope,
            team_id=team_id,
            name=name,
            key_hash=_hash(secret),
            hint=f"{secret[:shown]}…{secret[-4:]}",
            created_at=now,
            expires_at=expires_at,
            created_by=None if maker is None else maker.key_id,
        )
        if not await self._store.add_key(key, most=None if maker is None else _MAX_KEYS):
            if maker is None:
                raise NotFoundError("the team was removed")
            if await self._store.find_key(maker.key_hash) is None:
                raise AuthenticationError("the API key was revoked")
            raise QuotaExceededError(f"the team has {_MAX_KEYS} keys, which is its limit", hint="revoke keys that are not used")
        return key, secret

    async def team_names(self) -> dict[str, str]:
        """The names of all teams, by id."""
        return {team.team_id: team.name for team in await self._teams.list()}

    # ---- lists and changes ----

    async def list(self) -> Sequence[tuple[ApiKey, Team | None]]:
        """All keys with their teams, oldest first; None: the key is the operator's."""
        teams = {team.team_id: team for team in await self._teams.list()}
        keys = await self._store.list_keys()
        return [(key, None if key.team_id is None else teams[key.team_id]) for key in keys if key.team_id is None or key.team_id in teams]

    async def list_of(self, team: Team) -> Sequence[ApiKey]:
        """The team's keys that are not revoked, oldest first."""
        return [key for key in await self._store.list_keys(team.team_id) if key.revoked_at is None]

    async def rename(self, team: Team, key_id: str, name: str) -> None:
        """Rename a key of the team. Raises: InvalidRequestError, NotFoundError."""
        check_name("a key's name", name)
        if not await self._store.rename_key(team.team_id, _checked(key_id), name):
            raise NotFoundError(f"the team has no key {key_id}")

    async def revoke_of(self, team: Team, key_id: str, by: ApiKey | None = None) -> None:
        """Revoke a key of the team permanently, with the keys that were made with it, and in turn with those.

        The key of the client that asks, ``by``, stays, as a client replaces its key by one that it made with it.
        Raises: InvalidRequestError, NotFoundError.
        """
        spared = None if by is None else by.key_id
        if not await self._store.revoke_key(_checked(key_id), self._clock(), team_id=team.team_id, spared=spared):
            raise NotFoundError(f"the team has no key {key_id}")

    async def revoke(self, key_id: str) -> None:
        """Revoke any key permanently, with those that were made with it.

        Raises:
            NotFoundError: there is no such key, or it was revoked before.
        """
        if not await self._store.revoke_key(key_id, self._clock()):
            raise NotFoundError(f"there is no key {key_id} that is not revoked yet", hint="see `cloister key list`")


def _checked(key_id: str) -> str:
    if not is_key_id(key_id):
        raise InvalidRequestError("the id of a key is a UUID", hint="GET /api-keys lists them")
    return key_id
