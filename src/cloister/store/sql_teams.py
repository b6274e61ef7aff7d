"""The SQL of :class:`~cloister.store.teams.TeamStore`; see there for each method."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cloister.model.team import ApiKey, KeyScope, Team, TeamLimits
from cloister.model.team_metrics import TeamSample
from cloister.store.connection import Connection, Runner

__all__ = ["SqlTeams"]

_KEY_COLUMNS = tuple(field.name for field in dataclasses.fields(ApiKey))
_KEY = ", ".join(f"api_keys.{name} AS {name}" for name in _KEY_COLUMNS)
_TEAM_COLUMNS = ("team_id", "name", "created_at", "limits")
_TEAM = ", ".join(_TEAM_COLUMNS)
_KEYS = "keys"
"""The lock of what makes, revokes or removes keys: a key is not made while its maker is revoked, or its team removed."""
_KEPT_REVOKED = 100
"""Revoked keys of one team that are kept. A client that makes and revokes keys must not fill the disk."""
_REVOCATION = """
    UPDATE api_keys SET revoked_at = :at WHERE revoked_at IS NULL AND key_id IN (
        WITH RECURSIVE revoked (key_id) AS (
            SELECT key_id FROM api_keys WHERE key_id = :key_id AND revoked_at IS NULL AND (:team_id IS NULL OR team_id = :team_id)
            UNION SELECT made.key_id FROM api_keys made JOIN revoked ON made.created_by = revoked.key_id
            WHERE :spared IS NULL OR made.key_id <> :spared
        )
        SELECT key_id FROM revoked
    )
"""
"""A key, and those that were made with it, and in turn with those."""
_ENDED = {"reason": "killed", "message": "its team was removed"}
_LIVE = "SELECT count(*) AS live FROM sandboxes WHERE team_id = :team_id AND state <> 'ended'"
_COUNTS = {
    "keys": "SELECT count(*) FROM api_keys WHERE team_id = :team_id AND revoked_at IS NULL",
    "templates": "SELECT count(*) FROM templates WHERE team_id = :team_id AND deleted_at IS NULL AND kind = 'template'",
    "snapshots": "SELECT count(*) FROM templates WHERE team_id = :team_id AND deleted_at IS NULL AND kind <> 'template'",
    "secrets": "SELECT count(*) FROM secrets WHERE team_id = :team_id",
    "sandboxes": _LIVE,
}
_REMOVAL = (
    "UPDATE teams SET name = team_id, limits = '{}', removed_at = :at WHERE team_id = :team_id AND removed_at IS NULL",
    "DELETE FROM api_keys WHERE team_id = :team_id",
    "DELETE FROM secrets WHERE team_id = :team_id",
    "DELETE FROM webhooks WHERE team_id = :team_id",
    "DELETE FROM team_metrics WHERE team_id = :team_id",
    "UPDATE templates SET deleted_at = :at, updated_at = :at WHERE team_id = :team_id AND deleted_at IS NULL",
)
_END = (
    "UPDATE sandboxes SET state = 'ended', end_reason = :reason, end_message = :message, ended_at = :at, version = version + 1"
    " WHERE team_id = :team_id AND state <> 'ended'"
)


class SqlTeams:
    """A :class:`~cloister.store.teams.TeamStore` on the connection of a :class:`~cloister.store.sql_store.SqlStore`."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    async def _change(self, sql: str, values: Sequence[Any] | dict[str, Any]) -> int:
        return await self._run(lambda connection: connection.execute(sql, values).rowcount)

    async def _fetch(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[dict[str, Any]]:
        rows = await self._run(lambda connection: connection.execute(sql, values).fetchall())
        return [dict(row) for row in rows]

    # ---- teams ----

    async def add_team(self, team: Team) -> None:
        """See :class:`~cloister.store.teams.TeamStore`; likewise below."""
        values = (team.team_id, team.name, team.created_at, json.dumps(team.limits.to_json()))
        await self._change(f"INSERT INTO teams ({_TEAM}) VALUES (?, ?, ?, ?)", values)  # noqa: S608 - our own column names, here and below

    async def list_teams(self) -> Sequence[Team]:
        """See the protocol."""
        sql = f"SELECT {_TEAM} FROM teams WHERE removed_at IS NULL ORDER BY created_at, team_id"  # noqa: S608 - as above
        return [_team(row) for row in await self._fetch(sql)]

    async def find_team(self, team_id: str) -> Team | None:
        """See the protocol."""
        rows = await self._fetch(f"SELECT {_TEAM} FROM teams WHERE team_id = ? AND removed_at IS NULL", (team_id,))  # noqa: S608 - as above
        return _team(rows[0]) if rows else None

    async def change_limits(self, team_id: str, changes: Mapping[str, float | None]) -> bool:
        """See the protocol."""
        sql = "UPDATE teams SET limits = ? WHERE team_id = ? AND removed_at IS NULL"

        def change(connection: Connection) -> bool:
            connection.lock(f"limits of {team_id}")
            row = connection.execute("SELECT limits FROM teams WHERE team_id = ? AND removed_at IS NULL", (team_id,)).fetchone()
            if row is None:
                return False
            limits = {**json.loads(row["limits"]), **changes}
            kept = json.dumps({name: value for name, value in limits.items() if value is not None})
            return connection.execute(sql, (kept, team_id)).rowcount == 1

        return await self._run(lambda connection: connection.whole(change))

    async def remove_team(self, team_id: str, at: float, *, even_with_sandboxes: bool, ends_sandboxes: bool) -> bool:
        """See the protocol."""
        values = {"team_id": team_id, "at": at, **_ENDED}

        def remove(connection: Connection) -> bool:
            connection.lock(_KEYS)
            connection.lock(f"use of {team_id}")
            is_allowed = not connection.execute(_LIVE, values).fetchone()["live"] or even_with_sandboxes
            for sql in (*([_END] if ends_sandboxes else []), *_REMOVAL) if is_allowed else ():
                connection.execute(sql, values)
            return is_allowed

        return await self._run(lambda connection: connection.whole(remove))

    async def count_goods(self, team_id: str) -> Mapping[str, int]:
        """See the protocol."""
        sql = "SELECT " + ", ".join(f"({count}) AS {name}" for name, count in _COUNTS.items())
        return (await self._fetch(sql, {"team_id": team_id}))[0]

    # ---- keys ----

    async def add_key(self, key: ApiKey, *, most: int | None = None) -> bool:
        """See the protocol."""
        values = {**dataclasses.asdict(key), "most": most, "kept": _KEPT_REVOKED}
        columns, marks = ", ".join(_KEY_COLUMNS), ", ".join(f":{name}" for name in _KEY_COLUMNS)
        sql = (
            f"INSERT INTO api_keys ({columns}) SELECT {marks} WHERE (:team_id IS NULL"  # noqa: S608 - as above
            " OR EXISTS (SELECT 1 FROM teams WHERE team_id = :team_id AND removed_at IS NULL))"
            " AND (:created_by IS NULL OR EXISTS (SELECT 1 FROM api_keys WHERE key_id = :created_by AND revoked_at IS NULL))"
            " AND (:most IS NULL OR :most >"
            " (SELECT count(*) FROM api_keys WHERE team_id = :team_id AND revoked_at IS NULL AND coalesce(expires_at, 1e18) > :created_at))"
        )
        old = (
            "DELETE FROM api_keys WHERE key_id IN (SELECT key_id FROM api_keys WHERE team_id = :team_id AND created_by IS NOT NULL"
            " AND (revoked_at <= :created_at OR expires_at <= :created_at)"
            " ORDER BY created_at DESC LIMIT 1000000 OFFSET :kept)"
        )

        def add(connection: Connection) -> bool:
            connection.lock(_KEYS)
            connection.execute(old, values)
            return connection.execute(sql, values).rowcount == 1

        return await self._run(lambda connection: connection.whole(add))

    async def list_keys(self, team_id: str | None = None) -> Sequence[ApiKey]:
        """See the protocol."""
        sql = f"SELECT {_KEY} FROM api_keys WHERE :team_id IS NULL OR team_id = :team_id ORDER BY created_at, key_id"  # noqa: S608 - as above
        return [_key(row) for row in await self._fetch(sql, {"team_id": team_id})]

    async def find_key(self, key_hash: str) -> tuple[ApiKey, Team | None] | None:
        """See the protocol."""
        of_team = ", ".join(f"teams.{name} AS team_{name}" for name in _TEAM_COLUMNS)
        sql = (
            f"SELECT {_KEY}, {of_team} FROM api_keys LEFT JOIN teams USING (team_id)"  # noqa: S608 - as above
            " WHERE key_hash = ? AND revoked_at IS NULL AND removed_at IS NULL"
        )
        rows = await self._fetch(sql, (key_hash,))
        if not rows:
            return None
        team = {name: rows[0][f"team_{name}"] for name in _TEAM_COLUMNS}
        return _key(rows[0]), None if team["team_id"] is None else _team(team)

    async def rename_key(self, team_id: str, key_id: str, name: str) -> bool:
        """See the protocol."""
        sql = "UPDATE api_keys SET name = ? WHERE key_id = ? AND team_id = ? AND revoked_at IS NULL"
        return await self._change(sql, (name, key_id, team_id)) == 1

    async def revoke_key(self, key_id: str, at: float, *, team_id: str | None = None, spared: str | None = None) -> bool:
        """See the protocol."""
        values = {"at": at, "key_id": key_id, "team_id": team_id, "spared": spared}

        def revoke(connection: Connection) -> bool:
            connection.lock(_KEYS)
            return connection.execute(_REVOCATION, values).rowcount > 0

        return await self._run(lambda connection: connection.whole(revoke))

    async def forget_key(self, key_id: str) -> None:
        """See the protocol."""
        await self._change("DELETE FROM api_keys WHERE key_id = ?", (key_id,))

    async def note_use(self, key_id: str, at: float) -> None:
        """See the protocol."""
        await self._change("UPDATE api_keys SET last_used_at = ? WHERE key_id = ?", (at, key_id))

    # ---- metrics ----

    async def add_samples(self, samples: Sequence[TeamSample]) -> None:
        """See the protocol."""
        sql = (
            "INSERT INTO team_metrics (team_id, at, peak, starts) SELECT team_id, ?, ?, ? FROM teams WHERE team_id = ?"
            " ON CONFLICT (team_id, at) DO UPDATE SET peak = excluded.peak, starts = excluded.starts"
        )
        rows = [(one.at, one.peak, one.starts, one.team_id) for one in samples]

        def add(connection: Connection) -> None:
            connection.executemany(sql, rows)

        if rows:
            await self._run(lambda connection: connection.whole(add))

    async def list_samples(self, team_id: str, start: float, end: float) -> Sequence[TeamSample]:
        """See the protocol."""
        sql = "SELECT team_id, at, peak, starts FROM team_metrics WHERE team_id = ? AND at BETWEEN ? AND ? ORDER BY at"
        return [TeamSample(**row) for row in await self._fetch(sql, (team_id, start, end))]

    async def prune_samples(self, before: float) -> None:
        """See the protocol."""
        await self._change("DELETE FROM team_metrics WHERE at < ?", (before,))


def _team(row: dict[str, Any]) -> Team:
    return Team(**{**row, "limits": TeamLimits(**json.loads(row["limits"]))})


def _key(row: dict[str, Any]) -> ApiKey:
    fields = {name: row[name] for name in _KEY_COLUMNS}
    return ApiKey(**{**fields, "scope": KeyScope(fields["scope"])})
