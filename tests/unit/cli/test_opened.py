"""Commands of root's open the database in a directory of the api process, which may have put anything there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.cli.opened import open_store
from cloister.config.settings import Settings
from cloister.errors import CloisterError
from cloister.model.team import Team

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root takes the rights of others")
OWNER = 12_345
_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """One with a database of the api process, in a place that it can reach."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    (made / "api").mkdir(mode=0o700)
    (made / "api" / "cloister.db").touch(0o600)
    asyncio.run(_add_team(made, "first"))
    for path in (made / "api", *(made / "api").iterdir()):
        os.chown(path, OWNER, OWNER)
    yield made
    shutil.rmtree(made)


async def _add_team(data_dir: Path, name: str) -> set[str]:
    async with open_store(Settings(data_dir=data_dir)) as store:
        await store.teams.add_team(Team(team_id=name, name=name, created_at=0))
        return {team.name for team in await store.teams.list_teams()}


def _journal(pages: int, named: Path) -> bytes:
    """A hot rollback journal that names a super-journal, which SQLite removes after the roll-back. Source: sqlite.org/fileformat.html."""
    header = _JOURNAL_MAGIC + struct.pack(">IIIII", 0, 1, pages, 512, 4096)
    name = os.fsencode(named)
    end = struct.pack(">I", 0x4000_0000 // 4096 + 1) + name + struct.pack(">II", len(name), sum(name)) + _JOURNAL_MAGIC
    return header.ljust(512, b"\0") + end


def test_a_command_of_roots_changes_the_database(data_dir: Path) -> None:
    """All files beside it stay the api process's, and the rest of the process stays root's."""
    assert asyncio.run(_add_team(data_dir, "second")) == {"first", "second"}
    assert {path.stat().st_uid for path in (data_dir / "api").iterdir()} == {OWNER}
    (data_dir / "of root").touch(0o600)
    assert (data_dir / "of root").stat().st_uid == 0


def test_the_api_process_cannot_have_root_remove_a_file(data_dir: Path) -> None:
    """A journal can name any file as one that SQLite is to remove."""
    victim = data_dir / "victim"
    victim.write_text("of root\n")
    database = data_dir / "api" / "cloister.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
    for path in database.parent.glob("cloister.db-*"):
        path.unlink()
    (data_dir / "api" / "cloister.db-journal").write_bytes(_journal(pages, victim))
    with contextlib.suppress(CloisterError):
        asyncio.run(_add_team(data_dir, "second"))
    assert victim.read_text() == "of root\n"


def test_the_api_process_cannot_have_root_write_a_file(data_dir: Path) -> None:
    """A link in the place of the database leads root nowhere."""
    database = data_dir / "api" / "cloister.db"
    database.unlink()
    database.symlink_to(data_dir / "victim.db")
    (data_dir / "victim.db").touch(0o600)
    with pytest.raises(CloisterError, match="Permission denied"):
        asyncio.run(_add_team(data_dir, "second"))
    assert (data_dir / "victim.db").stat().st_size == 0
