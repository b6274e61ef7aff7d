"""The store in one SQLite file in WAL mode. The statements are :class:`~cloister.store.sql_store.SqlStore`'s.

Owns the connection and the one thread that uses it. Statements run there in the order of their calls, so the event loop never waits for
the disk. Other processes (``cloister key``) may have the same file open.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from cloister.errors import AlreadyExistsError, PermissionDeniedError, StorageFullError, StoreError, UnusableStateError
from cloister.store.connection import Connection
from cloister.store.migrate import load_migrations, migrate
from cloister.store.sql_store import SqlStore

__all__ = ["SqliteStore"]

_T = TypeVar("_T")
_BUSY_MS = 5_000
_REMEDY = "stop the server, and restore the file from a backup, or move it away: the next start makes an empty one, with a new key"
_OWNER_REMEDY = "the owner of its directory must own it and the files beside it, which begin with its name"


class _Connection(sqlite3.Connection):
    """A :class:`~cloister.store.connection.Connection`."""

    def whole(self, work: Callable[[Connection], _T]) -> _T:
        self.execute("BEGIN IMMEDIATE")
        try:
            result = work(self)
            self.execute("COMMIT")
        except BaseException:
            if self.in_transaction:  # a full disk, for one, has ended it (sqlite.org/lang_transaction.html)
                self.execute("ROLLBACK")
            raise
        return result

    def lock(self, name: str) -> None:
        """A transaction excludes every other writer from its beginning on."""


class SqliteStore(SqlStore):
    """A :class:`~cloister.store.base.Store` in a SQLite file. Make one with :meth:`open`."""

    def __init__(self, connection: _Connection, thread: ThreadPoolExecutor) -> None:
        super().__init__(self._run_here)
        self._connection = connection
        self._thread = thread

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
        await self._run(lambda _: self._connection.close())
        self._thread.shutdown()

    async def _run_here(self, work: Callable[[Connection], _T], /) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._connection)
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


def _connect(path: Path) -> _Connection:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    os.close(descriptor)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=_Connection)
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
