"""The api process attacks root's commands by files in its directory, and a server attacks its clients by a redirect."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cloister.backup.making import BackupSource, make_backup
from cloister.client.api import connect
from cloister.config.client_env import ClientEnv, read_client_env
from cloister.errors import CloisterError
from cloister.store.sqlite import SqliteStore
from cloister.template.layers import LayerStore

pytestmark = pytest.mark.root
OWNER = 12_345


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """One whose directory ``api`` is the api process's, in a place that it can reach."""

    async def fill() -> None:
        await (await SqliteStore.open(made / "api" / "cloister.db")).close()

    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    (made / "api").mkdir(mode=0o700)
    asyncio.run(fill())
    for path in (made / "api", *(made / "api").iterdir()):
        os.chown(path, OWNER, OWNER)
    yield made
    shutil.rmtree(made)


def test_api_process_cannot_have_a_backup_open_files_of_root(data_dir: Path, tmp_path: Path) -> None:
    """A link in the place of the database leads to no other one, such as that of another server."""
    database, victim = data_dir / "api" / "cloister.db", data_dir / "of-root.db"
    database.rename(victim)
    os.chown(victim, 0, 0)
    victim.chmod(0o600)
    with closing(sqlite3.connect(victim)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    database.symlink_to(victim)
    LayerStore(tmp_path / "store")
    source = BackupSource(data_dir=data_dir, store_dir=tmp_path / "store", config=tmp_path / "none")
    with suppress(CloisterError):
        make_backup(source, tmp_path / "backup.tar", lambda _done, _total: None)
    assert not (tmp_path / "backup.tar").exists()


def test_api_process_cannot_let_a_command_wait(data_dir: Path) -> None:
    """A pipe in the place of a file is not waited for."""
    os.mkfifo(data_dir / "api" / "client.env")

    def read() -> None:
        with suppress(CloisterError):
            read_client_env(data_dir)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    reading.join(10)
    is_waiting = reading.is_alive()
    with suppress(OSError):  # ends a command that waits
        os.close(os.open(data_dir / "api" / "client.env", os.O_WRONLY | os.O_NONBLOCK))
    assert not is_waiting


async def test_server_cannot_send_a_key_elsewhere() -> None:
    """The client of the command line follows no redirect."""
    asked: list[str | None] = []

    async def redirect(_: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect(str(other.make_url("/sandboxes/s")))

    async def take(request: web.Request) -> web.Response:
        asked.append(request.headers.get("X-API-KEY"))
        return web.json_response({})

    first, second = web.Application(), web.Application()
    first.router.add_get("/{path:.*}", redirect)
    second.router.add_get("/{path:.*}", take)
    async with TestServer(first) as server, TestServer(second) as other:
        with suppress(CloisterError):
            async with connect(ClientEnv(str(server.make_url("")).rstrip("/"), "secret")) as api:
                await api.get("s")
    assert asked == []
