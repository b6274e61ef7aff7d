"""Opens the store of a server for a command, beside the running server or without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cloister.errors import NotFoundError, PermissionDeniedError
from cloister.linux.identity import use_rights_of_owner
from cloister.store.sqlite import SqliteStore

__all__ = ["open_store"]


@asynccontextmanager
async def open_store(data_dir: Path) -> AsyncIterator[SqliteStore]:
    """The store in the block.

    Raises:
        NotFoundError: no server has run on this data directory yet.
        PermissionDeniedError: the caller may not read it.
    """
    path = data_dir / "api" / "cloister.db"
    try:
        path.stat()
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {path}", hint="has `cloister serve` been started on this data directory?") from error
    except PermissionError as error:
        raise PermissionDeniedError(f"{path} is not readable", hint="run this as root") from error
    store = await SqliteStore.open(path, use_rights_of_owner)  # SQLite follows links and journals, and the api process owns the directory
    try:
        yield store
    finally:
        await store.close()
