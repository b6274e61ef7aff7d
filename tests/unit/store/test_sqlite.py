"""The SQLite store: its file, and its migration. The behaviour of every store is in test_store.py."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.control.lifecycle_events import event_of
from cloister.errors import AlreadyExistsError, PermissionDeniedError, StorageFullError, StoreError, UnusableStateError
from cloister.ids import is_key_id
from cloister.model.event import EventType
from cloister.model.network import NO_EGRESS, PUBLIC_EGRESS, NetworkOptions
from cloister.model.sandbox import Sandbox, SandboxState
from cloister.model.secret import Secret
from cloister.model.team import ApiKey, Team
from cloister.model.team_metrics import TeamSample
from cloister.store.migrate import load_migrations
from cloister.store.sqlite import SqliteStore

TEAM = Team(team_id="t1", name="one", created_at=1.0)
KEY = ApiKey(key_id="k1", team_id="t1", name="key", key_hash="h1", hint="e2b_", created_at=2.0)
ROW = Sandbox(
    sandbox_id="s" * 20,
    team_id="t1",
    template_id="tpl",
    template="base",
    state=SandboxState.RUNNING,
    started_at=10.5,
    end_at=20.25,
    cpu_count=1.5,
    mem_mib=10,
    disk_mib=20,
    metadata={"ü": "'\"\n"},
    access_token=Secret("a"),
    egress=NO_EGRESS,
    node_id="node_1",
    idempotency_key="idem",
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """An open store with one team."""
    store = await SqliteStore.open(tmp_path / "x.db")
    await store.teams.add_team(TEAM)
    yield store
    await store.close()


async def test_the_file_is_private_and_of_the_newest_schema(store: SqliteStore, tmp_path: Path) -> None:
    """The database is readable by its owner only and has the number of the last migration."""
    assert (tmp_path / "x.db").stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(tmp_path / "x.db")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (load_migrations()[-1][0],)


def test_each_migration_has_a_number_of_its_own() -> None:
    """Of two migrations with one number, a database could miss the second for ever."""
    numbers = [number for number, _ in load_migrations()]
    assert numbers == sorted(set(numbers))


async def test_a_database_that_missed_the_secrets_gets_them(tmp_path: Path) -> None:
    """Migration 8 was for a time two files. Whichever of them a database applied, it has a table of secrets afterwards."""
    for has_secrets in (False, True):
        path = tmp_path / f"{has_secrets}.db"
        with closing(sqlite3.connect(path)) as database:
            for number, sql in load_migrations():
                if number <= (9 if has_secrets else 8):
                    database.executescript(sql)
            database.execute("PRAGMA user_version = 8")
            database.commit()
        store = await SqliteStore.open(path)
        assert list(await store.secrets.list_secrets("t1")) == []
        await store.close()


async def test_keys_of_an_older_release_are_kept(tmp_path: Path) -> None:
    """A database from before keys had scopes is brought to the newest schema, and its keys go on to open what they opened."""
    with closing(sqlite3.connect(tmp_path / "old.db")) as database:
        for number, sql in load_migrations():
            if number <= 2:
                database.executescript(sql)
        database.execute("INSERT INTO teams VALUES ('t1', 'one', 1.0)")
        database.execute("INSERT INTO api_keys VALUES ('k1', 't1', 'key', 'h1', 'e2b_', 2.0, NULL)")
        database.execute("PRAGMA user_version = 2")
        database.commit()
    store = await SqliteStore.open(tmp_path / "old.db")
    (key,) = await store.teams.list_keys()
    assert is_key_id(key.key_id)
    assert key == replace(KEY, key_id=key.key_id)
    assert await store.teams.find_key("h1") == (key, TEAM)
    await store.close()


async def test_sandboxes_of_an_older_release_are_kept(tmp_path: Path) -> None:
    """Rows from before nodes had ids and sandboxes an egress policy keep every field; a switch that was not set stays a choice not made."""
    with closing(sqlite3.connect(tmp_path / "old.db")) as database:
        for number, sql in load_migrations():
            if number <= 4:
                database.executescript(sql)
        database.execute("INSERT INTO teams VALUES ('t1', 'one', 1.0)")
        for number, allowed in enumerate((None, 1, 0)):
            database.execute(
                "INSERT INTO sandboxes (sandbox_id, team_id, template_id, template, state, started_at, end_at, cpu_count, mem_mib,"
                " disk_mib, metadata, access_token, traffic_token, allow_internet, idempotency_key, version, network)"
                " VALUES (?, 't1', 'tpl', 'base', 'running', ?, 20.25, 1.5, 10, 20,"
                " '{\"a\": \"b\"}', 'a', 'b', ?, ?, 3, '{\"host_mask\": \"h\"}')",
                (f"{number:020}", number, allowed, f"key{number}"),
            )
        database.execute("PRAGMA user_version = 4")
        database.commit()
    store = await SqliteStore.open(tmp_path / "old.db")
    rows = list(await store.list_sandboxes(ended_since=0))
    assert [row.egress for row in rows] == [None, PUBLIC_EGRESS, NO_EGRESS]
    expected = replace(
        ROW,
        sandbox_id=f"{1:020}",
        started_at=1.0,
        metadata={"a": "b"},
        traffic_token=Secret("b"),
        egress=PUBLIC_EGRESS,
        network=NetworkOptions(host_mask="h"),
        idempotency_key="key1",
        node_id=None,
        version=3,
    )
    assert rows[1] == expected
    with pytest.raises(AlreadyExistsError):
        await store.add_sandbox(replace(ROW, sandbox_id="o" * 20, idempotency_key="key1"))
    await store.close()


def fill(path: Path, script: str) -> None:
    """Make a database by SQL."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)


async def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    """A database of a later release is left alone, and the error names the file and the remedy."""
    fill(tmp_path / "new.db", "PRAGMA user_version = 999")
    with pytest.raises(UnusableStateError, match=r"new\.db: its schema is 999.*run the newer release"):
        await SqliteStore.open(tmp_path / "new.db")


async def test_a_damaged_database_is_recognised(tmp_path: Path) -> None:
    """No database, another program's, a directory, or pages that are not what they were: each is told with the file's name."""
    (tmp_path / "text.db").write_text("this is no database " * 500)
    (tmp_path / "directory.db").mkdir()
    fill(tmp_path / "other.db", "CREATE TABLE teams (a); CREATE TABLE b (c)")
    await (await SqliteStore.open(tmp_path / "pages.db")).close()
    fill(tmp_path / "pages.db", "CREATE TABLE more (x); INSERT INTO more VALUES (zeroblob(50000)); PRAGMA wal_checkpoint(TRUNCATE)")
    with (tmp_path / "pages.db").open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xff" * 8192)
    for name in ("text", "directory", "other", "pages"):
        with pytest.raises(UnusableStateError, match=rf"{name}\.db: .*\("):
            await SqliteStore.open(tmp_path / f"{name}.db")


async def test_no_database_where_it_cannot_be(tmp_path: Path) -> None:
    """A path that cannot be opened is a StoreError that names it."""
    with pytest.raises(StoreError, match="nowhere"):
        await SqliteStore.open(tmp_path / "nowhere" / "x.db")


async def test_a_full_disk_is_named(store: SqliteStore) -> None:
    """A key for which there is no space is refused as such, and can be made when there is space again."""
    await store._run(lambda connection: connection.execute("PRAGMA max_page_count = 1"))
    with pytest.raises(StorageFullError, match="disk is full"):
        await store.teams.add_key(replace(KEY, name="x" * 100_000))
    await store._run(lambda connection: connection.execute("PRAGMA max_page_count = 100000"))
    await store.teams.add_key(KEY)
    assert [key.key_id for key in await store.teams.list_keys()] == ["k1"]


async def test_a_transaction_that_fails_does_not_stay_open(store: SqliteStore, tmp_path: Path) -> None:
    """Later changes take effect for other processes: they are not part of the one that failed."""
    await store.add_sandbox(ROW)
    spoil = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    with closing(spoil):
        spoil.execute("CREATE TRIGGER spoil BEFORE INSERT ON team_metrics WHEN NEW.at = 2 BEGIN SELECT RAISE(ABORT, 'spoilt'); END")
        with pytest.raises(PermissionDeniedError, match="spoilt"):
            await store.teams.add_samples([TeamSample(team_id="t1", at=float(at), peak=1, starts=1) for at in (1, 2)])
        await store.teams.add_team(Team(team_id="t2", name="two", created_at=2.0))
        assert spoil.execute("SELECT count(*) FROM teams").fetchone() == (2,)
    assert await store.teams.list_samples("t1", 0, 9) == []


async def test_a_disk_that_gets_full_in_a_transaction_is_told(store: SqliteStore) -> None:
    """SQLite has undone the transaction itself then. Clients learn that the disk is full, rather than of an internal error."""
    await store.add_sandbox(replace(ROW, metadata={}))
    store._connection.execute("PRAGMA max_page_count = 1")  # no more than now
    large = event_of(replace(ROW, metadata={"large": "x" * 4000}), EventType.UPDATED, 11.0)
    with pytest.raises(StorageFullError):
        await store.change_sandbox(replace(ROW, version=2), expected_version=1, events=[large])


async def test_a_store_that_is_closed_fails_as_a_store(tmp_path: Path) -> None:
    """Its callers handle errors of the store."""
    store = await SqliteStore.open(tmp_path / "y.db")
    store._connection.close()
    with pytest.raises(StoreError, match="closed"):
        await store.teams.list_teams()
