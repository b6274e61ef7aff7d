"""Copies of the database: one before each change of its schema, with which an older release goes on."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cloister.cli.main import main
from cloister.errors import UnusableStateError
from cloister.linux.identity import use_rights_of_owner
from cloister.store import migrate as migrations
from cloister.store.copies import backup_for, copy_before_migration, copy_database, copy_idle_database
from cloister.store.migrate import load_migrations, newest_schema
from cloister.store.sqlite import SqliteStore


async def _open(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.close()


def _older(path: Path, schema: int) -> None:
    """A database as a release with this schema leaves it, with one team."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        for number, sql in load_migrations():
            if number <= schema:
                connection.executescript(sql)
        connection.execute("INSERT INTO teams (team_id, name, created_at) VALUES ('old', 'old', 1)")
        connection.execute(f"PRAGMA user_version = {schema:d}")
        connection.commit()


def _teams(path: Path) -> tuple[int, set[str]]:
    with closing(sqlite3.connect(path)) as connection:
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        return schema, {name for (name,) in connection.execute("SELECT team_id FROM teams")}


@pytest.mark.skipif(os.geteuid() != 0, reason="cloister restore needs root")
def test_an_older_release_gets_its_database_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A migration leaves a copy; the older release names the command that puts it back, and it starts then."""
    path = tmp_path / "data" / "api" / "cloister.db"
    older = load_migrations()[-2][0]
    _older(path, older)
    asyncio.run(_open(path))
    (copy,) = (path.parent / "backups").iterdir()
    assert _teams(copy) == (older, {"old"})
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO teams (team_id, name, created_at) VALUES ('new', 'new', 2)")
        connection.commit()
    whole = load_migrations()
    monkeypatch.setattr(migrations, "load_migrations", lambda: whole[:-1])
    with pytest.raises(UnusableStateError, match=f"cloister restore --replace {copy}"):
        asyncio.run(_open(path))
    monkeypatch.undo()
    assert main(["restore", "--replace", str(copy), "--data-dir", str(tmp_path / "data"), "--run-dir", str(tmp_path / "run")]) == 0
    assert "the database alone" in capsys.readouterr().out
    monkeypatch.setattr(migrations, "load_migrations", lambda: whole[:-1])
    asyncio.run(_open(path))
    assert _teams(path) == (older, {"old"})
    (replaced,) = (tmp_path / "data" / "replaced").glob("*/api/cloister.db")
    assert _teams(replaced) == (whole[-1][0], {"old", "new"})


def test_a_new_database_is_not_copied(tmp_path: Path) -> None:
    """There is nothing to keep of it."""
    (tmp_path / "api").mkdir()
    asyncio.run(_open(tmp_path / "api" / "cloister.db"))
    assert not (tmp_path / "api" / "backups").exists()


def test_the_newest_copies_are_kept(tmp_path: Path) -> None:
    """Five of them; an older release is offered the newest copy that it can read."""
    path = tmp_path / "cloister.db"
    _older(path, newest_schema())
    directory = tmp_path / "backups"
    directory.mkdir()
    for year in range(2020, 2026):
        (directory / f"schema-{year - 2012}-{year}0101T000000Z.db").write_bytes(b"")
    (directory / "an operator's.db").write_bytes(b"")
    made = copy_before_migration(path, 14)
    kept = [f"schema-{year - 2012}-{year}0101T000000Z.db" for year in range(2022, 2026)]
    assert {one.name for one in directory.iterdir()} == {made.name, "an operator's.db", *kept}
    assert backup_for(path, 12) == directory / kept[2]
    assert backup_for(path, 9) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_api_process_cannot_get_a_directory_of_roots(tmp_path: Path) -> None:
    """A command of root's that migrates follows no link that the owner of the database made."""
    path, victim = tmp_path / "api" / "cloister.db", tmp_path / "victim"
    _older(path, newest_schema())
    os.chown(path.parent, 1000, 1000)
    victim.mkdir()
    (path.parent / "backups").symlink_to(victim)
    with pytest.raises(UnusableStateError, match="is a link"):
        copy_before_migration(path, 1)
    assert victim.stat().st_uid == 0
    assert not list(victim.iterdir())


@pytest.fixture
def of_the_api() -> Iterator[Path]:
    """A database in a directory of the api process, which it can reach."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    _older(made / "api" / "cloister.db", newest_schema())
    for path in (made / "api", made / "api" / "cloister.db"):
        os.chown(path, 12_345, 12_345)
    yield made / "api" / "cloister.db"
    shutil.rmtree(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root takes the rights of others")
def test_a_backup_reads_with_the_rights_of_the_api_process(of_the_api: Path, tmp_path: Path) -> None:
    """The copy is root's, in a directory of root's; a link in the place of the database or its log leads to nothing of root's."""
    copy_database(of_the_api, tmp_path / "copy.db", use_rights_of_owner)
    assert _teams(tmp_path / "copy.db")[1] == {"old"}
    assert (tmp_path / "copy.db").stat().st_uid == 0
    assert [path.name for path in tmp_path.iterdir()] == ["copy.db"]
    victim = of_the_api.parent.parent / "victim.db"
    of_the_api.rename(victim)
    os.chown(victim, 0, 0)
    victim.chmod(0o600)
    of_the_api.symlink_to(victim)
    with pytest.raises(UnusableStateError, match="cannot copy"):
        copy_database(of_the_api, tmp_path / "stolen.db", use_rights_of_owner)
    assert [path.name for path in tmp_path.iterdir()] == ["copy.db"]


def test_sqlite_opens_nothing_beside_a_database_that_is_put_back(tmp_path: Path) -> None:
    """A link, a pipe and a database with a journal are refused, and nothing is left."""
    path = tmp_path / "api" / "cloister.db"
    _older(path, newest_schema())
    (tmp_path / "link.db").symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        copy_idle_database(tmp_path / "link.db", tmp_path / "new.db")
    os.mkfifo(tmp_path / "pipe.db")
    with pytest.raises(UnusableStateError, match="is no file"):
        copy_idle_database(tmp_path / "pipe.db", tmp_path / "new.db")
    (path.parent / "cloister.db-journal").symlink_to("/etc/shadow")
    with pytest.raises(UnusableStateError, match="is not whole"):
        copy_idle_database(path, tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()
