"""Brings a SQLite database to the present schema: numbered SQL files, each applied once, in order.

The number of the last one applied is the database's ``user_version``. Invariant: a migration is applied whole or not at all; a
database from a newer release is refused.
"""

from __future__ import annotations

import functools
import re
import sqlite3
from importlib import resources

from cloister.errors import StoreError

__all__ = ["load_migrations", "migrate"]

_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql\Z")


@functools.cache
def load_migrations() -> list[tuple[int, str]]:
    """Number and SQL of each migration, in order; read once, so that a process can read them before it gives up privileges."""
    entries = resources.files("cloister.store").joinpath("migrations").iterdir()
    return sorted((int(match[1]), entry.read_text(encoding="utf-8")) for entry in entries if (match := _NAME.match(entry.name)))


def migrate(connection: sqlite3.Connection) -> int:
    """Apply what is missing; returns the schema's number. ``connection`` must be in autocommit mode.

    Raises:
        StoreError: the database is of a newer release.
        sqlite3.Error: a migration failed; it left nothing behind.
    """
    migrations = load_migrations()
    connection.execute("BEGIN IMMEDIATE")
    try:
        (present,) = connection.execute("PRAGMA user_version").fetchone()
        newest = migrations[-1][0]
        if present > newest:
            raise StoreError(f"the database has schema {present}, this release knows {newest}", hint="use the newer release")
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


def _statements(sql: str) -> list[str]:
    found, gathered = [], ""
    for line in sql.splitlines(keepends=True):
        gathered += line
        if sqlite3.complete_statement(gathered):
            found.append(gathered)
            gathered = ""
    return found
