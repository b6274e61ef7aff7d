"""The store in a PostgreSQL database. The statements are :class:`~cloister.store.sql_store.SqlStore`'s.

Owns a pool of connections, and as many threads that use them: the event loop never waits for the database. Statements of different calls
run in any order. While the database is away, a call fails after a short time; the next one tries again. The address, which has the
password, is in no log and no error.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import select
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Any, TypeVar, cast

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from cloister.errors import (
    AlreadyExistsError,
    PermissionDeniedError,
    StorageFullError,
    StoreError,
    StoreUnreachableError,
    UnusableStateError,
)
from cloister.store.connection import Connection, Rows, Values
from cloister.store.postgres_migrate import load_postgres_migrations, migrate_postgres
from cloister.store.postgres_sharing import PostgresSharing
from cloister.store.sql_store import SqlStore

__all__ = ["PostgresStore"]

_T = TypeVar("_T")
_CONNECTIONS = 8
_CONNECT_S = 3
_WAIT_S = 3.0
"""For a connection of the pool."""
_RETRY_S = 1.0
"""The pool's own attempts to connect end so soon, and the next call makes another one."""
_EXAMPLE = "it is such as postgresql://user:password@host:5432/cloister"
_AWAY = "the database does not answer"
_REMEDY = "it is restarting or down; try again"
_PARAMETER = re.compile(r"'[^']*'|:([a-z_][a-z0-9_]*)|\?|%")


class PostgresStore(SqlStore):
    """A :class:`~cloister.store.base.Store` in a PostgreSQL database. Make one with :meth:`open`."""

    def __init__(self, pool: ConnectionPool[psycopg.Connection[Any]], address: str) -> None:
        super().__init__(self._run_there)
        self._pool = pool
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="store")
        self._sharing = PostgresSharing(address, self._run_there, pool.check)

    @property
    def sharing(self) -> PostgresSharing:
        """See :class:`~cloister.store.base.Store`."""
        return self._sharing

    @staticmethod
    def load() -> None:
        """Read the files that :meth:`open` needs."""
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # it tells each attempt to connect
        load_postgres_migrations()

    @classmethod
    async def open(cls, url: str) -> PostgresStore:
        """Connect to the database of the address (libpq's, such as ``postgresql://…``), and bring it to the present schema.

        Raises:
            UnusableStateError: the address is wrong, or the database is of a newer release.
            StoreUnreachableError: it does not answer. StoreError: it refuses.
        """
        address = _address(url)
        pool: ConnectionPool[psycopg.Connection[Any]] = ConnectionPool(
            address,
            min_size=1,
            max_size=_CONNECTIONS,
            open=False,
            check=_check,
            timeout=_WAIT_S,
            reconnect_timeout=_RETRY_S,
            kwargs={"autocommit": True, "row_factory": dict_row, "cursor_factory": psycopg.ClientCursor},
        )
        try:
            await asyncio.to_thread(_prepare, address)
            await asyncio.to_thread(pool.open, wait=True, timeout=_WAIT_S)
        except BaseException as error:
            pool.close()
            if isinstance(error, psycopg.Error):
                raise _translated(error) from None
            raise
        return cls(pool, address)

    @staticmethod
    async def try_address(url: str) -> None:
        """Connect and change nothing. Raises: as :meth:`open`."""
        try:
            await asyncio.to_thread(lambda: psycopg.connect(_address(url)).close())
        except psycopg.Error as error:
            raise _translated(error) from None

    async def close(self) -> None:
        """See :class:`~cloister.store.base.Store`."""
        await self.sharing.close()
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self._pool.close)

    def note_creation(self, connection: Connection, sandbox_id: str) -> None:
        """See :class:`SqlStore`."""
        self.sharing.note_creation(connection, sandbox_id)

    def take_rate(self, connection: Connection, team_id: str, rate: float) -> bool:
        """See :class:`SqlStore`."""
        return self.sharing.take_rate(connection, team_id, rate)

    async def _run_there(self, work: Callable[[Connection], _T], /) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._work, work)
        except psycopg.Error as error:
            raise _translated(error) from error
        except RuntimeError as error:  # the threads are gone
            raise StoreError(f"the store is closed: {error}") from error

    def _work(self, work: Callable[[Connection], _T]) -> _T:
        with self._pool.connection() as connection:
            return work(_Connection(connection))


class _Connection:
    """A :class:`~cloister.store.connection.Connection`."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Values = (), /) -> Rows:
        return cast("Rows", self._connection.execute(_marked(sql), _plain(values)))

    def executemany(self, sql: str, values: Sequence[Values], /) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(_marked(sql), [_plain(one) for one in values])

    def whole(self, work: Callable[[Connection], _T]) -> _T:
        with self._connection.transaction():
            return work(self)

    def lock(self, name: str) -> None:
        self._connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))


@functools.lru_cache(maxsize=512)
def _marked(sql: str) -> bytes:
    """SQL with the parameters as psycopg marks them."""

    def mark(found: re.Match[str]) -> str:
        if found[0] == "?":
            return "%s"
        return f"%({found[1]})s" if found[1] else found[0].replace("%", "%%")

    return _PARAMETER.sub(mark, sql).encode()


def _plain(values: Values) -> Any:
    """Values without switches and enumerations, which the columns have as numbers and texts."""
    if isinstance(values, dict):
        return {name: _plain_value(value) for name, value in values.items()}
    return [_plain_value(value) for value in values]


def _plain_value(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return int(value) if isinstance(value, bool) else value


def _address(url: str) -> str:
    """The address with time-outs that find a server that is gone. Raises: UnusableStateError."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        raise UnusableStateError("the setting database_url is no address of a PostgreSQL database", hint=_EXAMPLE) from None
    ours: dict[str, Any] = {
        "connect_timeout": _CONNECT_S,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    return make_conninfo(**{**ours, "application_name": "cloister", **given})


def _prepare(address: str) -> None:
    with psycopg.connect(address, autocommit=True, row_factory=dict_row, cursor_factory=psycopg.ClientCursor) as connection:
        migrate_postgres(connection)


def _check(connection: psycopg.Connection[Any]) -> None:
    """Raises: psycopg.OperationalError: the server has closed the connection. Asks it only if there is something to read."""
    if select.select([connection.fileno()], [], [], 0)[0]:
        ConnectionPool.check_connection(connection)


def _translated(error: psycopg.Error) -> StoreError | AlreadyExistsError | PermissionDeniedError | StorageFullError:
    told = (error.diag.message_primary or type(error).__name__) if error.sqlstate else type(error).__name__
    match error:
        case errors.UniqueViolation():
            return AlreadyExistsError(f"the store has it already: {told}")
        case errors.RaiseException():  # the triggers of the schema guard the rows of removed teams
            return PermissionDeniedError(told)
        case errors.DiskFull():
            return StorageFullError("the database's disk is full", hint="free space on it")
        case PoolTimeout() | errors.OperationalError() | errors.InterfaceError() | errors.ReadOnlySqlTransaction():
            return StoreUnreachableError(f"{_AWAY} ({told})", hint=_REMEDY)
        case _:
            return StoreError(f"the store failed: {told}")
