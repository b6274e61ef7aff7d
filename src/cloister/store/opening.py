"""Opens the store that the settings choose: a PostgreSQL database, or the SQLite file in the data directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cloister.errors import UnusableStateError
from cloister.store.sql_store import SqlStore
from cloister.store.sqlite import SqliteStore

__all__ = ["can_share", "load_shared", "open_store", "sqlite_path", "try_database"]


def sqlite_path(data_dir: Path) -> Path:
    """The file of a server whose store is not shared."""
    return data_dir / "api" / "cloister.db"


def can_share() -> bool:
    """Whether the libraries of the extra ``cluster`` are installed."""
    try:
        load_shared()
    except ImportError:
        return False
    return True


def load_shared() -> None:
    """Import all that a PostgreSQL database needs. A process that is about to lose the right to read its code calls this before.

    Raises: ImportError.
    """
    from cloister.store.postgres import PostgresStore  # noqa: PLC0415 - libraries that only a shared store needs

    PostgresStore.load()


async def try_database(url: str) -> None:
    """Connect to the database, and change nothing. Raises: as :func:`open_store`."""
    from cloister.store.postgres import PostgresStore  # noqa: PLC0415 - as above

    await PostgresStore.try_address(url)


async def open_store(data_dir: Path, database_url: str | None, prepare: Callable[[Path], None] | None = None) -> SqlStore:
    """The store. ``prepare`` is for the file: see :meth:`SqliteStore.open`.

    Raises: UnusableStateError, StoreError: as the databases; UnusableStateError also if a library is missing.
    """
    if database_url is None:
        return await SqliteStore.open(sqlite_path(data_dir), prepare)
    if not can_share():
        raise UnusableStateError("the setting database_url needs psycopg", hint="pip install 'cloister[cluster]'")
    from cloister.store.postgres import PostgresStore  # noqa: PLC0415 - as above

    return await PostgresStore.open(database_url)
