"""Secrets of teams: named texts that header rules put into requests of sandboxes. This module has the rules and knows no HTTP.

Invariants: every call is checked against the caller's team, and another team's secret looks like none. No call but :meth:`Secrets.value`,
which only the server of header values makes, returns a value; no log line and no error has one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from cloister.errors import AlreadyExistsError, ConflictError, InvalidRequestError, SecretLimitError, SecretNotFoundError
from cloister.ids import is_secret_id, new_secret_id
from cloister.model.secret import Secret
from cloister.model.stored_secret import StoredSecret
from cloister.store.sealing import SealingKeys
from cloister.store.secrets import SecretStore

__all__ = ["NOT_MODIFIABLE", "SECRET_ID_PREFIX", "NewSecret", "Secrets"]

_log = structlog.get_logger("cloister.control")
SECRET_ID_PREFIX = "sec_"  # noqa: S105 - the beginning of an id
NOT_MODIFIABLE = "Secret cannot be modified in its current state"
_NOT_FOUND = "Secret not found"
_INVALID = "Invalid secrets request"
"""The published words, as those above."""
_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class NewSecret:
    """A client's request for a secret; its fields are checked."""

    name: str
    value: Secret
    metadata: dict[str, str]


class Secrets:
    """The use cases about secrets. A team has at most ``most``."""

    def __init__(self, store: SecretStore, keys: SealingKeys, *, most: int) -> None:
        self._store = store
        self._keys = keys
        self._most = most

    async def create(self, team_id: str, new: NewSecret) -> StoredSecret:
        """Store a secret. Raises: ConflictError: the team has one of the name; SecretLimitError."""
        now = time.time()
        unsealed = StoredSecret(
            secret_id=new_secret_id(now),
            team_id=team_id,
            name=new.name,
            metadata=new.metadata,
            created_at=now,
            updated_at=now,
            version=1,
            key_id="",
            sealed=b"",
        )
        row = self._sealed(unsealed, new.value)
        try:
            is_added = await self._store.add_secret(row, most=self._most)
        except AlreadyExistsError as error:
            raise ConflictError(NOT_MODIFIABLE, hint=f"there is a secret {new.name}: update it, or choose another name") from error
        if not is_added:
            raise SecretLimitError(f"a team may have at most {self._most} secrets", hint="delete one that no sandbox uses")
        _log.info("secret.created", team_id=team_id, secret_id=row.secret_id)
        return row

    async def get(self, team_id: str, selector: str) -> StoredSecret:
        """The team's secret of that id or name. Raises: InvalidRequestError: a malformed id; SecretNotFoundError."""
        selector = selector.strip().lower()
        if selector.startswith(SECRET_ID_PREFIX):
            if not is_secret_id(selector):
                raise InvalidRequestError(_INVALID, hint=f"an id is {SECRET_ID_PREFIX} and 26 characters")
            found = await self._store.find_secret(team_id, secret_id=selector)
        else:
            found = await self._store.find_secret(team_id, name=selector)
        if found is None:
            raise SecretNotFoundError(_NOT_FOUND)
        return found

    async def list(self, team_id: str) -> Sequence[StoredSecret]:
        """The team's secrets."""
        return await self._store.list_secrets(team_id)

    async def update(self, team_id: str, selector: str, value: Secret, metadata: dict[str, str] | None) -> StoredSecret:
        """Give a secret a new value, and new metadata unless that is None. Raises: as :meth:`get`; ConflictError: others change it too."""
        for _ in range(_ATTEMPTS):
            row = await self.get(team_id, selector)
            changed = replace(row, version=row.version + 1, updated_at=time.time(), metadata=row.metadata if metadata is None else metadata)
            changed = self._sealed(changed, value)
            if await self._store.change_secret(changed, expected_version=row.version):
                _log.info("secret.updated", team_id=team_id, secret_id=row.secret_id, version=changed.version)
                return changed
        raise ConflictError(NOT_MODIFIABLE, hint="others change it at the same time; try again")

    async def delete(self, team_id: str, selector: str) -> None:
        """Delete a secret. Raises: as :meth:`get`."""
        row = await self.get(team_id, selector)
        if not await self._store.delete_secret(team_id, row.secret_id):
            raise SecretNotFoundError(_NOT_FOUND)
        _log.info("secret.deleted", team_id=team_id, secret_id=row.secret_id)

    async def value(self, team_id: str, name: str) -> Secret:
        """The value of the team's secret. Raises: SecretNotFoundError; StoreError: it cannot be decrypted."""
        row = await self._store.find_secret(team_id, name=name)
        if row is None:
            raise SecretNotFoundError(f"there is no secret {name}")
        return self._keys.unseal(row.key_id, row.sealed, _context(row))

    async def report_lost(self) -> None:
        """Write a line to the log if there are secrets whose key is lost."""
        lost = sum(not self._keys.has(row.key_id) for row in await self._store.list_sealed_otherwise(self._keys.current_id))
        if lost:
            _log.error("secrets.unreadable", count=lost, remedy="restore secrets.key from a backup, or give each a new value")

    async def reseal(self) -> int:
        """Encrypt all secrets with the current key; returns how many were not. No server may run on the store."""
        count = 0
        for row in await self._store.list_sealed_otherwise(self._keys.current_id):
            value = self._keys.unseal(row.key_id, row.sealed, _context(row))
            count += await self._store.reseal_secret(self._sealed(row, value), former_key_id=row.key_id)
        return count

    def _sealed(self, row: StoredSecret, value: Secret) -> StoredSecret:
        key_id, sealed = self._keys.seal(value, _context(row))
        return replace(row, key_id=key_id, sealed=sealed)


def _context(row: StoredSecret) -> bytes:
    """The facts that a value is bound to."""
    return json.dumps(["cloister secret", row.team_id, row.secret_id, row.version]).encode()
