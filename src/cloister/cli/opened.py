"""Opens the store of a server for a command, beside the running server or without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloister.config.settings import Settings
from cloister.errors import NotFoundError, PermissionDeniedError
from cloister.linux.identity import use_rights_of_owner
from cloister.store import opening
from cloister.store.base import Store

__all__ = ["open_store"]


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """The store in the block.

    Raises:
        NotFoundError: no server has run on this data directory yet.
        PermissionDeniedError: the caller may not read it.
        StoreError: the database does not answer.
    """
    path = opening.sqlite_path(settings.data_dir)
    try:
        if settings.database_url is None:
            path.stat()
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {path}", hint="has `cloister serve` been started on this data directory?") from error
    except PermissionError as error:
        raise PermissionDeniedError(f"{path} is not readable", hint="run this as root") from error
    # SQLite follows links and journals, and the api process owns the directory
    store = await opening.open_store(settings.data_dir, settings.database_url, use_rights_of_owner)
    try:
        yield store
    finally:
        await store.close()
