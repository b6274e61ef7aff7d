"""The store in one SQLite file in WAL mode. The only SQL of SQLite besides the migrations.

Owns the connection and the one thread that uses it: statements run there in the order they were asked for, so the event loop never
waits for a disk. Other processes (``cloister key``) may have the same file open.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from cloister.errors import AlreadyExistsError, StoreError
from cloister.model.sandbox import EndReason, SandboxState
from cloister.store.base import ApiKey, Sandbox, Team
from cloister.store.migrate import migrate
from cloister.store.sqlite_templates import SqliteTemplates

__all__ = ["SqliteStore"]

_T = TypeVar("_T")
_BUSY_MS = 5_000
_COLUMNS = tuple(field.name for field in dataclasses.fields(Sandbox))


class SqliteStore:
    """A :class:`~cloister.store.base.Store` in a SQLite file. Make one with :meth:`open`."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread
        self.templates = SqliteTemplates(lambda work: self._run(lambda: work(connection)))

    @classmethod
    async def open(cls, path: Path) -> SqliteStore:
        """Open or create the database (mode 0600) and bring it to the present schema.

        Raises:
            StoreError: the file cannot be opened, or is of a newer release.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        try:
            connection = await asyncio.get_running_loop().run_in_executor(thread, _connect, path)
        except (sqlite3.Error, OSError) as error:
            thread.shutdown()
            raise StoreError(f"cannot open {path}: {error}") from error
        except BaseException:
            thread.shutdown()
            raise
        return cls(connection, thread)

    async def close(self) -> None:
        """See :class:`~cloister.store.base.Store`."""
        await self._run(self._connection.close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            if error.sqlite_errorname in {"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}:
                raise AlreadyExistsError(f"the store has it already: {error}") from error
            raise StoreError(f"the store failed: {error}") from error

    async def _change(self, sql: str, values: Sequence[Any] | dict[str, Any]) -> int:
        return await self._run(lambda: self._connection.execute(sql, values).rowcount)

    async def _fetch(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        rows = await self._run(lambda: self._connection.execute(sql, values).fetchall())
        return [dict(row) for row in rows]

    async def add_team(self, team: Team) -> None:
        """See :class:`~cloister.store.base.Store`."""
        await self._change("INSERT INTO teams (team_id, name, created_at) VALUES (?, ?, ?)", (team.team_id, team.name, team.created_at))

    async def list_teams(self) -> Sequence[Team]:
        """See :class:`~cloister.store.base.Store`."""
        return [Team(**row) for row in await self._fetch("SELECT * FROM teams ORDER BY created_at, team_id")]

    async def add_key(self, key: ApiKey) -> None:
        """See :class:`~cloister.store.base.Store`."""
        await self._change(
            "INSERT INTO api_keys (key_id, team_id, name, key_hash, hint, created_at, revoked_at)"
            " VALUES (:key_id, :team_id, :name, :key_hash, :hint, :created_at, :revoked_at)",
            dataclasses.asdict(key),
        )

    async def list_keys(self) -> Sequence[ApiKey]:
        """See :class:`~cloister.store.base.Store`."""
        return [ApiKey(**row) for row in await self._fetch("SELECT * FROM api_keys ORDER BY created_at, key_id")]

    async def revoke_key(self, key_id: str, at: float) -> bool:
        """See :class:`~cloister.store.base.Store`."""
        return await self._change("UPDATE api_keys SET revoked_at = ? WHERE key_id = ? AND revoked_at IS NULL", (at, key_id)) == 1

    async def find_team_by_key(self, key_hash: str) -> Team | None:
        """See :class:`~cloister.store.base.Store`."""
        rows = await self._fetch(
            "SELECT teams.* FROM teams JOIN api_keys USING (team_id) WHERE key_hash = ? AND revoked_at IS NULL", (key_hash,)
        )
        return Team(**rows[0]) if rows else None

    async def add_sandbox(self, sandbox: Sandbox) -> None:
        """See :class:`~cloister.store.base.Store`."""
        names = ", ".join(_COLUMNS)
        marks = ", ".join(f":{name}" for name in _COLUMNS)
        await self._change(f"INSERT INTO sandboxes ({names}) VALUES ({marks})", _to_row(sandbox))  # noqa: S608 - our own column names

    async def change_sandbox(self, sandbox: Sandbox, *, expected_version: int) -> bool:
        """See :class:`~cloister.store.base.Store`."""
        assignments = ", ".join(f"{name} = :{name}" for name in _COLUMNS if name != "sandbox_id")
        sql = f"UPDATE sandboxes SET {assignments} WHERE sandbox_id = :sandbox_id AND version = :expected_version"  # noqa: S608 - as above
        return await self._change(sql, {**_to_row(sandbox), "expected_version": expected_version}) == 1

    async def list_sandboxes(self, *, ended_since: float) -> Sequence[Sandbox]:
        """See :class:`~cloister.store.base.Store`."""
        rows = await self._fetch("SELECT * FROM sandboxes WHERE state <> 'ended' OR ended_at >= ? ORDER BY started_at", (ended_since,))
        return [_from_row(row) for row in rows]

    async def prune_sandboxes(self, *, ended_before: float) -> int:
        """See :class:`~cloister.store.base.Store`."""
        return await self._change("DELETE FROM sandboxes WHERE state = 'ended' AND ended_at < ?", (ended_before,))


def _connect(path: Path) -> sqlite3.Connection:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    os.close(descriptor)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _to_row(sandbox: Sandbox) -> dict[str, Any]:
    row = {name: getattr(sandbox, name) for name in _COLUMNS}
    row["metadata"] = json.dumps(sandbox.metadata)
    return row


def _from_row(row: dict[str, Any]) -> Sandbox:
    fields = dict(row)
    fields["metadata"] = json.loads(fields["metadata"])
    fields["state"] = SandboxState(fields["state"])
    if fields["allow_internet"] is not None:
        fields["allow_internet"] = bool(fields["allow_internet"])
    if fields["end_reason"] is not None:
        fields["end_reason"] = EndReason(fields["end_reason"])
    return Sandbox(**fields)
