"""The store in one SQLite file in WAL mode. All SQL is here, in the modules ``sqlite_*`` beside it, and in the migrations.

Owns the connection and the one thread that uses it. Statements run there in the order of their calls, so the event loop never waits for
the disk. Other processes (``cloister key``) may have the same file open.
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

from cloister.errors import AlreadyExistsError, PermissionDeniedError, StorageFullError, StoreError, UnusableStateError
from cloister.model.event import LifecycleEvent
from cloister.model.lifecycle import Lifecycle, Pause
from cloister.model.network import EgressPolicy, NetworkOptions
from cloister.model.sandbox import EndReason, Sandbox, SandboxState
from cloister.model.secret import conceal, reveal
from cloister.model.volume import VolumeMount
from cloister.store.migrate import load_migrations, migrate
from cloister.store.sqlite_events import SqliteEvents, insert_events
from cloister.store.sqlite_secrets import SqliteSecrets
from cloister.store.sqlite_teams import SqliteTeams
from cloister.store.sqlite_templates import SqliteTemplates
from cloister.store.sqlite_transactions import in_transaction
from cloister.store.sqlite_volumes import SqliteVolumes

__all__ = ["SqliteStore"]

_T = TypeVar("_T")
_BUSY_MS = 5_000
_REMEDY = "stop the server, and restore the file from a backup, or move it away: the next start makes an empty one, with a new key"
_OWNER_REMEDY = "the owner of its directory must own it and the files beside it, which begin with its name"
_COLUMNS = tuple(field.name for field in dataclasses.fields(Sandbox))


class SqliteStore:
    """A :class:`~cloister.store.base.Store` in a SQLite file. Make one with :meth:`open`."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread
        self.teams = SqliteTeams(lambda work: self._run(lambda: work(connection)))
        self.templates = SqliteTemplates(lambda work: self._run(lambda: work(connection)))
        self.secrets = SqliteSecrets(lambda work: self._run(lambda: work(connection)))
        self.events = SqliteEvents(lambda work: self._run(lambda: work(connection)))
        self.volumes = SqliteVolumes(lambda work: self._run(lambda: work(connection)))

    @classmethod
    async def open(cls, path: Path, prepare: Callable[[Path], None] | None = None) -> SqliteStore:
        """Open or create the database (mode 0600) and bring it to the present schema.

        ``prepare`` is called first with the directory, in the thread that alone uses the database.

        Raises:
            UnusableStateError: the file is damaged, is no database of this program, has another owner, or is of a newer release.
            StoreError: it cannot be opened now, such as on a full disk.
        """
        load_migrations()  # while this process may read them
        thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        try:
            loop = asyncio.get_running_loop()
            if prepare is not None:
                await loop.run_in_executor(thread, prepare, path.parent)
            connection = await loop.run_in_executor(thread, _connect, path)
        except UnusableStateError as error:
            thread.shutdown()
            raise UnusableStateError(f"cannot use the database {path}: {error.message}", hint=error.hint) from error
        except (PermissionError, IsADirectoryError) as error:
            thread.shutdown()
            raise UnusableStateError(f"cannot use the database {path}: {error.strerror}", hint=_OWNER_REMEDY) from error
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
            if not hasattr(error, "sqlite_errorname"):  # it comes from Python's module, such as for a connection that is closed
                raise StoreError(f"the store failed: {error}") from error
            if error.sqlite_errorname in {"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}:
                raise AlreadyExistsError(f"the store has it already: {error}") from error
            if error.sqlite_errorname == "SQLITE_CONSTRAINT_TRIGGER":  # the triggers of the schema guard the rows of removed teams
                raise PermissionDeniedError(str(error)) from error
            if _is_damaged(error):
                raise UnusableStateError(f"the database is damaged: {error}", hint=_REMEDY) from error
            if error.sqlite_errorname == "SQLITE_FULL":
                raise StorageFullError("the server's disk is full", hint="free space in its data directory") from error
            raise StoreError(f"the store failed: {error}") from error

    async def _change(self, sql: str, values: Sequence[Any] | dict[str, Any]) -> int:
        return await self._run(lambda: self._connection.execute(sql, values).rowcount)

    async def _fetch(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        rows = await self._run(lambda: self._connection.execute(sql, values).fetchall())
        return [dict(row) for row in rows]

    async def add_sandbox(self, sandbox: Sandbox) -> None:
        """See :class:`~cloister.store.base.Store`."""
        names = ", ".join(_COLUMNS)
        marks = ", ".join(f":{name}" for name in _COLUMNS)
        await self._change(f"INSERT INTO sandboxes ({names}) VALUES ({marks})", _to_row(sandbox))  # noqa: S608 - our own column names

    async def change_sandbox(self, sandbox: Sandbox, *, expected_version: int, events: Sequence[LifecycleEvent] = ()) -> bool:
        """See :class:`~cloister.store.base.Store`."""
        assignments = ", ".join(f"{name} = :{name}" for name in _COLUMNS if name != "sandbox_id")
        sql = f"UPDATE sandboxes SET {assignments} WHERE sandbox_id = :sandbox_id AND version = :expected_version"  # noqa: S608 - as above
        values = {**_to_row(sandbox), "expected_version": expected_version}

        def change(connection: sqlite3.Connection) -> bool:
            is_changed = connection.execute(sql, values).rowcount == 1
            if is_changed:
                insert_events(connection, events)
            return is_changed

        if not events:
            return await self._run(lambda: change(self._connection))
        return await self._run(lambda: in_transaction(self._connection, change))

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
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise UnusableStateError(f"it is damaged: {' '.join(found.split())}", hint=_REMEDY)
        migrate(connection, path)
    except sqlite3.Error as error:
        connection.close()
        if _is_damaged(error) or error.sqlite_errorname == "SQLITE_ERROR":  # another program's: it has other tables
            raise UnusableStateError(f"it is damaged, or no database of Cloister: {error}", hint=_REMEDY) from error
        if error.sqlite_errorname.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN")):
            raise UnusableStateError(str(error), hint=_OWNER_REMEDY) from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _is_damaged(error: sqlite3.Error) -> bool:
    """Whether the content of the file is wrong, rather than the disk or a lock. Source: sqlite.org/rescode.html."""
    return error.sqlite_errorname == "SQLITE_NOTADB" or error.sqlite_errorname.startswith("SQLITE_CORRUPT")


def _to_row(sandbox: Sandbox) -> dict[str, Any]:
    row = {name: getattr(sandbox, name) for name in _COLUMNS}
    row["metadata"] = json.dumps(sandbox.metadata)
    row["access_token"], row["traffic_token"] = reveal(sandbox.access_token), reveal(sandbox.traffic_token)
    row["egress"] = None if sandbox.egress is None else json.dumps(sandbox.egress.to_json())
    row["network"] = json.dumps(sandbox.network.to_json())
    row["lifecycle"] = json.dumps(sandbox.lifecycle.to_json())
    row["pause"] = None if sandbox.pause is None else json.dumps(sandbox.pause.to_json())
    row["volumes"] = json.dumps([one.to_json() for one in sandbox.volumes])
    return row


def _from_row(row: dict[str, Any]) -> Sandbox:
    fields = dict(row)
    fields["metadata"] = json.loads(fields["metadata"])
    fields["network"] = NetworkOptions.from_json(json.loads(fields["network"]))
    fields["lifecycle"] = Lifecycle.from_json(json.loads(fields["lifecycle"]))
    if fields["pause"] is not None:
        fields["pause"] = Pause.from_json(json.loads(fields["pause"]))
    fields["state"] = SandboxState(fields["state"])
    fields["volumes"] = tuple(map(VolumeMount.from_json, json.loads(fields["volumes"])))
    if fields["egress"] is not None:
        fields["egress"] = EgressPolicy.from_json(json.loads(fields["egress"]))
    for name in ("access_token", "traffic_token"):
        fields[name] = conceal(fields[name])
    if fields["end_reason"] is not None:
        fields["end_reason"] = EndReason(fields["end_reason"])
    return Sandbox(**fields)
