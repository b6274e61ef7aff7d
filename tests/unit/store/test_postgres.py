"""The PostgreSQL store: its schema, its address, and its faults. The behaviour of every store is in test_store.py."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cloister.errors import StoreError, StoreUnreachableError, UnusableStateError
from cloister.model.team import Team
from cloister.store.postgres import PostgresStore
from cloister.store.sqlite import SqliteStore
from framework.postgres import Postgres
from framework.waiting import turns

_OF_SHARING = {"cloister_schema", "creations", "creation_rates"}
_COLUMNS = "SELECT table_name, column_name, is_nullable FROM information_schema.columns WHERE table_schema = 'public'"
_KINDS = "SELECT DISTINCT data_type FROM information_schema.columns WHERE table_schema = 'public'"
_INDEXES = "SELECT indexname FROM pg_indexes WHERE schemaname = 'public' AND indexname NOT IN (SELECT conname FROM pg_constraint)"
_TRIGGERS = "SELECT DISTINCT trigger_name FROM information_schema.triggers WHERE trigger_name LIKE 'no_%'"


def _of_sqlite(path: Path) -> tuple[set[tuple[str, str, bool]], set[str], set[str]]:
    """Columns (with whether they are NOT NULL), indexes and triggers."""
    with closing(sqlite3.connect(path)) as database:
        names = {
            kind: {
                name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = ? AND name NOT LIKE 'sqlite_%'", (kind,))
            }
            for kind in ("table", "index", "trigger")
        }
        columns = {
            (table, row[1], bool(row[3]) or bool(row[5]))
            for table in names["table"]
            for row in database.execute(f"PRAGMA table_info({table})")
        }
    return columns, names["index"], names["trigger"]


async def test_both_databases_end_in_the_same_tables(postgres: Postgres, tmp_path: Path) -> None:
    """Whatever migrations there are: the same columns, indexes and triggers, and no column of a type that would lose something."""
    url = postgres.new_database()
    for store in (await SqliteStore.open(tmp_path / "x.db"), await PostgresStore.open(url)):
        await store.close()
    columns, indexes, triggers = _of_sqlite(tmp_path / "x.db")
    found = {(table, name, nullable == "NO") for table, name, nullable in postgres.execute(_COLUMNS, url) if table not in _OF_SHARING}
    assert found == columns
    assert {name for (name,) in postgres.execute(_INDEXES, url)} - {"live_sandboxes_by_team"} == indexes
    assert {name for (name,) in postgres.execute(_TRIGGERS, url)} == triggers
    assert {kind for (kind,) in postgres.execute(_KINDS, url)} <= {
        "text",
        "bigint",
        "double precision",
        "bytea",
        "integer",
        "timestamp with time zone",
    }


async def test_processes_that_start_together_migrate_once(postgres: Postgres) -> None:
    """A second start finds everything done, and a newer release's database is refused."""
    url = postgres.new_database()
    for store in await asyncio.gather(*(PostgresStore.open(url) for _ in range(3))):
        await store.close()
    postgres.execute("INSERT INTO cloister_schema (number) VALUES (9999)", url)
    with pytest.raises(UnusableStateError, match=r"its schema is 9999.*newer release"):
        await PostgresStore.open(url)


async def test_no_error_tells_the_password(postgres: Postgres) -> None:
    """Neither of an address that is wrong, nor of a server that refuses or is not there."""
    good = postgres.url()
    for url, kind in (
        ("postgresql://user:s3cret@127.0.0.1:1/x", StoreUnreachableError),
        ("mysql://user:s3cret@127.0.0.1/x", UnusableStateError),
        ("postgresql://user:s3cret@127.0.0.1:port/x", StoreError),
        (f"{good.rpartition('@')[0]}s3cret@{good.rpartition('@')[2]}", StoreError),
    ):
        with pytest.raises(kind) as caught:
            await PostgresStore.open(url)
        assert "s3cret" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__!r}"


async def test_it_heals_when_the_server_is_back(postgres: Postgres) -> None:
    """While it is away calls fail soon and as such; afterwards the same store goes on."""
    store = await PostgresStore.open(postgres.new_database())
    await store.teams.add_team(Team(team_id="t1", name="one", created_at=1.0))
    await asyncio.gather(*(store.teams.list_teams() for _ in range(20)))  # several connections
    postgres.kill()
    try:
        for _ in range(3):
            with pytest.raises(StoreUnreachableError):
                await store.teams.list_teams()
    finally:
        postgres.start()

    async def is_back() -> bool:
        try:
            return len(await store.teams.list_teams()) == 1
        except StoreUnreachableError:
            return False

    while not await is_back():  # it fails at once while there is no server
        await turns(5)
    assert all(len(teams) == 1 for teams in await asyncio.gather(*(store.teams.list_teams() for _ in range(20))))
    await store.close()
