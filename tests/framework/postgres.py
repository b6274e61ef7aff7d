"""A PostgreSQL server of the tests': real, of Debian's package, unprivileged, in a directory of its own, on loopback with a password.

It can be killed and started again. Each test gets a database of its own.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

from framework.waiting import eventually

__all__ = ["Postgres"]

_NOBODY = 65_534
_END_WITH_THE_TESTS = ("setpriv", "--pdeathsig", "QUIT")
"""A killed test run leaves no server: SIGQUIT is its immediate shutdown."""
_OPTIONS = ("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=100")


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.skip("PostgreSQL is not installed: run scripts/test, or apt install postgresql")
    return found[-1].parent


class Postgres:
    """The server. Call :meth:`start`, and :meth:`remove` last."""

    def __init__(self, *, is_durable: bool = False) -> None:
        self._options = _OPTIONS if is_durable else (*_OPTIONS, "-c", "fsync=off")
        self._programs = _programs()
        self._directory = Path(tempfile.mkdtemp(prefix="cloister-postgres-"))
        self._password = secrets.token_hex(16)
        self._names = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        password_file = self._directory / "password"
        password_file.write_text(self._password)
        for path in (self._directory, password_file):
            if self._user:
                os.chown(path, _NOBODY, _NOBODY)
        make = [self._programs / "initdb", "-D", self._directory / "data", "-U", "postgres", "--auth=scram-sha-256"]
        make += [f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=self._directory, **self._user)  # type: ignore[call-overload]  # see above

    def start(self) -> None:
        """Start it; returns when it answers."""
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(  # type: ignore[call-overload]  # see above
                [*_END_WITH_THE_TESTS, self._programs / "postgres", "-D", self._directory / "data", "-p", str(self.port), *self._options],
                stdout=log,
                stderr=log,
                cwd=self._directory,
                start_new_session=True,
                **self._user,
            )
        eventually(self._answers, timeout_s=60)

    @property
    def pid(self) -> int:
        """The process that starts all others of it. It runs."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill every process of it."""
        if self._process is not None:
            pid = self._process.pid
            os.kill(pid, signal.SIGSTOP)  # it makes no further children, each of which leads a group of its own
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
                os.kill(int(child), signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Kill it and delete all data."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def url(self, database: str = "postgres") -> str:
        """The address of a database."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The address of a new, empty database."""
        name = f"test_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, sql: str, url: str | None = None) -> list[tuple[object, ...]]:
        """Execute a statement in the database of the address; returns its rows."""
        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True
