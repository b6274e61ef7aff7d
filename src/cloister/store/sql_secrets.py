"""The SQL of :class:`~cloister.store.secrets.SecretStore`; see there for each method."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from cloister.model.stored_secret import StoredSecret
from cloister.store.connection import Connection, Runner

__all__ = ["SqlSecrets"]

_COLUMNS = tuple(field.name for field in dataclasses.fields(StoredSecret))
_NAMES = ", ".join(_COLUMNS)
_MARKS = ", ".join(f":{name}" for name in _COLUMNS)


class SqlSecrets:
    """A :class:`~cloister.store.secrets.SecretStore` on the connection of a :class:`~cloister.store.sql_store.SqlStore`."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    async def _change(self, sql: str, values: dict[str, Any]) -> int:
        return await self._run(lambda connection: connection.execute(sql, values).rowcount)

    async def _fetch(self, sql: str, values: Sequence[Any]) -> list[StoredSecret]:
        rows = await self._run(lambda connection: connection.execute(sql, values).fetchall())
        return [StoredSecret(**{**dict(row), "metadata": json.loads(row["metadata"])}) for row in rows]

    async def add_secret(self, secret: StoredSecret, *, most: int) -> bool:
        """See :class:`~cloister.store.secrets.SecretStore`; likewise below."""
        sql = (
            f"INSERT INTO secrets ({_NAMES}) SELECT {_MARKS}"  # noqa: S608 - our own column names, here and below
            " WHERE (SELECT count(*) FROM secrets WHERE team_id = :team_id) < :most"
        )
        values = {**_to_row(secret), "most": most}

        def add(connection: Connection) -> bool:
            connection.lock(f"secrets of {secret.team_id}")
            return connection.execute(sql, values).rowcount == 1

        return await self._run(lambda connection: connection.whole(add))

    async def find_secret(self, team_id: str, *, secret_id: str | None = None, name: str | None = None) -> StoredSecret | None:
        """See the protocol."""
        sql = f"SELECT {_NAMES} FROM secrets WHERE team_id = ? AND (secret_id = ? OR name = ?)"  # noqa: S608 - as above
        found = await self._fetch(sql, (team_id, secret_id, name))
        return found[0] if found else None

    async def list_secrets(self, team_id: str) -> Sequence[StoredSecret]:
        """See the protocol."""
        return await self._fetch(f"SELECT {_NAMES} FROM secrets WHERE team_id = ?", (team_id,))  # noqa: S608 - as above

    async def change_secret(self, secret: StoredSecret, *, expected_version: int) -> bool:
        """See the protocol."""
        sql = (
            "UPDATE secrets SET metadata = :metadata, updated_at = :updated_at, version = :version, key_id = :key_id, sealed = :sealed"
            " WHERE secret_id = :secret_id AND team_id = :team_id AND version = :expected_version"
        )
        return await self._change(sql, {**_to_row(secret), "expected_version": expected_version}) == 1

    async def delete_secret(self, team_id: str, secret_id: str) -> bool:
        """See the protocol."""
        sql = "DELETE FROM secrets WHERE team_id = :team_id AND secret_id = :secret_id"
        return await self._change(sql, {"team_id": team_id, "secret_id": secret_id}) == 1

    async def list_sealed_otherwise(self, key_id: str) -> Sequence[StoredSecret]:
        """See the protocol."""
        return await self._fetch(f"SELECT {_NAMES} FROM secrets WHERE key_id <> ?", (key_id,))  # noqa: S608 - as above

    async def reseal_secret(self, secret: StoredSecret, *, former_key_id: str) -> bool:
        """See the protocol."""
        sql = (
            "UPDATE secrets SET key_id = :key_id, sealed = :sealed"
            " WHERE secret_id = :secret_id AND version = :version AND key_id = :former_key_id"
        )
        return await self._change(sql, {**_to_row(secret), "former_key_id": former_key_id}) == 1


def _to_row(secret: StoredSecret) -> dict[str, Any]:
    return {**vars(secret), "metadata": json.dumps(secret.metadata)}
