"""The databases that a store may use: every test of the store's interface runs with each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cloister.store.postgres import PostgresStore
from cloister.store.sql_store import SqlStore
from cloister.store.sqlite import SqliteStore
from framework.postgres import Postgres


@pytest.fixture(params=["sqlite", "postgresql"])
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[SqlStore]]]:
    """A function that opens a store, each time on the same database, which is empty at first."""
    async with AsyncExitStack() as stack:
        url = None
        if request.param == "postgresql":
            server: Postgres = request.getfixturevalue("postgres")
            url = server.new_database()

        async def opened() -> SqlStore:
            store = await SqliteStore.open(tmp_path / "x.db") if url is None else await PostgresStore.open(url)
            stack.push_async_callback(store.close)
            return store

        yield opened
