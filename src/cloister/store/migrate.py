"""Migrates a SQLite database to the present schema by numbered SQL files, each applied once, in order.

The database's ``user_version`` is the number of the last migration applied. Invariant: the missing migrations are applied all or not at
all, to a database that was copied before; a database of a newer release is refused.
"""

from __future__ import annotations

import functools
import re
import sqlite3
from importlib import resources
from pathlib import Path

from cloister.errors import UnusableStateError
from cloister.store.copies import backup_for, copy_before_migration

__all__ = ["load_migrations", "migrate", "newest_schema"]

_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql\Z")


@functools.cache
def load_migrations() -> list[tuple[int, str]]:
    """Number and SQL of each migration, in order. Cached: the api process reads them before it gives up its privileges."""
    entries = resources.files("cloister.store").joinpath("migrations").iterdir()
    return sorted((int(match[1]), entry.read_text(encoding="utf-8")) for entry in entries if (match := _NAME.match(entry.name)))


def newest_schema() -> int:
    """The number of the schema that this release uses."""
    return load_migrations()[-1][0]


def migrate(connection: sqlite3.Connection, path: Path) -> int:
    """Apply the missing migrations; returns the schema's number. ``connection``, to the file ``path``, must be in autocommit mode.

    Raises:
        UnusableStateError: the database is of a newer release.
        sqlite3.Error, OSError: it could not be copied, or a migration failed; the database is unchanged.
    """
    migrations, newest = load_migrations(), newest_schema()
    connection.execute("BEGIN IMMEDIATE")
    try:
        (present,) = connection.execute("PRAGMA user_version").fetchone()
        if present > newest:
            raise UnusableStateError(f"its schema is {present}, this release knows {newest}", hint=_way_back(path, newest))
        if 0 < present < newest:
            copy_before_migration(path, present)  # the open transaction keeps other processes from writing meanwhile
        for number, sql in migrations:
            if number > present:
                for statement in _statements(sql):
                    connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {newest:d}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return newest


def _way_back(path: Path, schema: int) -> str:
    copy = backup_for(path, schema)
    remedy = "run the newer release that wrote it"
    return f"{remedy}, or go back with it: cloister restore --replace {copy}" if copy else f"{remedy}, or restore a backup of this release"


def _statements(sql: str) -> list[str]:
    found, gathered = [], ""
    for line in sql.splitlines(keepends=True):
        gathered += line
        if sqlite3.complete_statement(gathered):
            found.append(gathered)
            gathered = ""
    return found
