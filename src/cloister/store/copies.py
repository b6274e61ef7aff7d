"""Copies of the SQLite database: a consistent one while a server uses it, and one before each change of its schema.

Owns ``<directory of the database>/backups``, with the newest copies from before a migration, ``schema-<number>-<time>.db``.
Runs in: the api process, and commands of the operator's.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from cloister.errors import UnusableStateError

__all__ = ["MAGIC", "backup_for", "copy_before_migration", "copy_database", "copy_idle_database", "database_schema", "ready_builds"]

MAGIC = b"SQLite format 3\0"
"""The first bytes of a database file. Source: sqlite.org/fileformat.html."""
_KEPT = 5
_NAME = re.compile(r"schema-(\d{1,6})-\d{8}T\d{6}Z\.db\Z")


def copy_database(source: Path, target: Path, prepare: Callable[[Path], None] | None = None) -> int:
    """Copy the database, as one transaction sees it, to the new file ``target`` of mode 0600; returns its schema's number.

    Other processes may use it meanwhile. ``prepare`` is called first with the directory of ``source``, in the one thread that opens files
    there: it can give the thread the rights of the directory's owner, because SQLite follows links and journals.
    Raises: UnusableStateError: it is damaged, or no database; OSError. ``target`` is gone then.
    """

    def copy() -> None:
        if prepare is not None:
            prepare(source.absolute().parent)
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as reader:
            reader.backup(writer)

    with _new_database(source, target), closing(sqlite3.connect(target, check_same_thread=False)) as writer:
        writer.execute("PRAGMA journal_mode = MEMORY").fetchone()  # opens the target now; the other thread may have no right to
        with ThreadPoolExecutor(1, thread_name_prefix="database") as thread:
            thread.submit(copy).result()
        writer.execute("PRAGMA journal_mode = DELETE")  # one file, which needs none beside it
    return database_schema(target)


def copy_idle_database(source: Path, target: Path) -> int:
    """As :func:`copy_database`, of a file that no process uses, in a directory that untrusted code may change: SQLite opens nothing there.

    Raises: UnusableStateError: it is no file, has a journal beside it, is damaged, or no database; OSError.
    """
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnusableStateError(f"{source} is no file")
        beside = [source.with_name(f"{source.name}-{kind}") for kind in ("wal", "journal")]
        if found := [path for path in beside if os.path.lexists(path)]:
            hint = "a database that a process uses is copied by `cloister backup`"
            raise UnusableStateError(f"{source} is not whole: there is {found[0]}", hint=hint)
        with _new_database(source, target):
            with target.open("wb") as made:
                shutil.copyfileobj(file, made)
            with closing(sqlite3.connect(target)) as writer:
                writer.execute("PRAGMA journal_mode = DELETE")
    return database_schema(target)


@contextmanager
def _new_database(source: Path, target: Path) -> Iterator[None]:
    """Makes the file ``target``, which is removed if the block fails."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    try:
        yield
    except sqlite3.Error as error:
        target.unlink()
        raise UnusableStateError(f"cannot copy the database {source}: {error}") from error
    except BaseException:
        target.unlink()
        raise


def database_schema(path: Path) -> int:
    """The number of the schema of a database that no process uses. Raises: UnusableStateError: it is damaged, or no database of ours."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            (schema,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute("SELECT count(*) FROM api_keys, teams").fetchone()
    except sqlite3.Error as error:
        raise UnusableStateError(f"{path} is no database of Cloister, or damaged: {error}") from error
    if found != "ok":
        raise UnusableStateError(f"the database {path} is damaged: {' '.join(found.split())}")
    return int(schema)


def ready_builds(path: Path) -> list[str]:
    """The ids of the builds of clients' templates and snapshots that sandboxes can be made of. Raises: UnusableStateError."""
    sql = "SELECT build_id FROM builds JOIN templates USING (template_id) WHERE status = 'ready' AND deleted_at IS NULL ORDER BY build_id"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return [build_id for (build_id,) in connection.execute(sql)]
    except sqlite3.Error as error:
        raise UnusableStateError(f"{path} has no table of builds: {error}") from error


def copy_before_migration(path: Path, schema: int) -> Path:
    """Copy the database with this schema, and remove the oldest such copies. Returns the copy. Raises: UnusableStateError, OSError."""
    directory = path.parent / "backups"
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.is_symlink():
        raise UnusableStateError(f"{directory} is a link", hint="remove it")
    copy = directory / f"schema-{schema}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.db"
    copy.unlink(missing_ok=True)
    copy_database(path, copy)
    owner = path.parent.stat()
    for made in (directory, copy):  # a command of root's may migrate too; the api process owns the directory, and may have put links there
        os.chown(made, owner.st_uid, owner.st_gid, follow_symlinks=False)
    copies = sorted(_copies(path), key=lambda one: one.name.rsplit("-", 1)[1])
    for old in copies[:-_KEPT]:
        old.unlink()
    return copy


def backup_for(path: Path, schema: int) -> Path | None:
    """The newest copy of the database ``path`` from before a migration that a release with this schema can use."""
    fitting = [one for one in _copies(path) if int(one.name.split("-")[1]) <= schema]
    return max(fitting, key=lambda one: (int(one.name.split("-")[1]), one.name), default=None)


def _copies(path: Path) -> list[Path]:
    return [one for one in path.parent.glob("backups/*") if _NAME.match(one.name)]
