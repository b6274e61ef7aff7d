"""The SQLite store: what is kept, compare-and-set, uniqueness, migration."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.errors import AlreadyExistsError, StoreError
from cloister.model.sandbox import EndReason, SandboxState
from cloister.store.base import ApiKey, Sandbox, Team
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
    access_token="a",
    allow_internet=False,
    idempotency_key="idem",
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """An open store with one team."""
    store = await SqliteStore.open(tmp_path / "x.db")
    await store.add_team(TEAM)
    yield store
    await store.close()


async def test_rows_come_back_as_they_went(store: SqliteStore, tmp_path: Path) -> None:
    """Every field of a sandbox survives, also a reopening of the file."""
    ended = replace(ROW, sandbox_id="e" * 20, state=SandboxState.ENDED, end_reason=EndReason.EXPIRED, ended_at=30.0, allow_internet=None)
    await store.add_sandbox(ROW)
    await store.add_sandbox(ended)
    other = await SqliteStore.open(tmp_path / "x.db")
    assert list(await other.list_sandboxes(ended_since=0)) == [ROW, ended]
    assert list(await other.list_sandboxes(ended_since=31)) == [ROW]
    await other.close()


async def test_compare_and_set(store: SqliteStore) -> None:
    """Of two writers that saw the same version one wins and the other is told."""
    await store.add_sandbox(ROW)
    changes = [replace(ROW, end_at=float(number), version=2) for number in (1, 2)]
    won = await asyncio.gather(*(store.change_sandbox(row, expected_version=1) for row in changes))
    assert sorted(won) == [False, True]
    assert list(await store.list_sandboxes(ended_since=0)) == [changes[won.index(True)]]


async def test_what_must_be_unique(store: SqliteStore) -> None:
    """Ids, team names and idempotency keys of live sandboxes are taken once."""
    await store.add_sandbox(ROW)
    for clashing in (ROW, replace(ROW, sandbox_id="o" * 20)):
        with pytest.raises(AlreadyExistsError):
            await store.add_sandbox(clashing)
    with pytest.raises(AlreadyExistsError):
        await store.add_team(replace(TEAM, team_id="t2"))
    await store.change_sandbox(replace(ROW, state=SandboxState.ENDED, version=2), expected_version=1)
    await store.add_sandbox(replace(ROW, sandbox_id="o" * 20))


async def test_a_sandbox_needs_its_team(store: SqliteStore) -> None:
    """A sandbox of no team is refused, and not as something that exists already."""
    with pytest.raises(StoreError):
        await store.add_sandbox(replace(ROW, team_id="nobody"))


async def test_keys(store: SqliteStore) -> None:
    """A key is found by its hash until it is revoked, which works once."""
    await store.add_key(KEY)
    assert await store.find_team_by_key("h1") == TEAM
    assert await store.find_team_by_key("h2") is None
    assert await store.revoke_key("k1", 5.0)
    assert not await store.revoke_key("k1", 6.0)
    assert await store.find_team_by_key("h1") is None
    assert list(await store.list_keys()) == [replace(KEY, revoked_at=5.0)]


async def test_pruning(store: SqliteStore) -> None:
    """Only what ended long enough ago is forgotten."""
    await store.add_sandbox(ROW)
    await store.add_sandbox(replace(ROW, sandbox_id="e" * 20, state=SandboxState.ENDED, ended_at=30.0))
    assert await store.prune_sandboxes(ended_before=30.0) == 0
    assert await store.prune_sandboxes(ended_before=30.5) == 1
    assert list(await store.list_sandboxes(ended_since=0)) == [ROW]


async def test_the_file_is_private_and_of_the_newest_schema(store: SqliteStore, tmp_path: Path) -> None:
    """The database is readable by its owner only and has the number of the last migration."""
    assert (tmp_path / "x.db").stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(tmp_path / "x.db")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (load_migrations()[-1][0],)


async def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    """A database of a later release is left alone."""
    with closing(sqlite3.connect(tmp_path / "new.db")) as database:
        database.execute("PRAGMA user_version = 999")
    with pytest.raises(StoreError, match="schema 999"):
        await SqliteStore.open(tmp_path / "new.db")


async def test_no_database_where_it_cannot_be(tmp_path: Path) -> None:
    """A path that cannot be opened is a StoreError that names it."""
    with pytest.raises(StoreError, match="nowhere"):
        await SqliteStore.open(tmp_path / "nowhere" / "x.db")
