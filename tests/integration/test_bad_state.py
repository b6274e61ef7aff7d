"""Starts that cannot succeed end at once with the cause. Interrupted starts never report that the server is ready."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from framework.inside import python
from framework.server import Server, free_port, running_server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]


QUICK = ("--pool-size", "0", "--zygotes", "false")
"""Nothing is made ahead."""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory with the api process's in it; unlike pytest's own one that the api uid can reach."""
    with tempfile.TemporaryDirectory(prefix="cloister-test-") as directory:
        path = Path(directory)
        path.chmod(0o755)
        (path / "api").mkdir()
        yield path


def start(data_dir: Path) -> subprocess.Popen[str]:
    """A launcher; what it and its children say goes to ``log`` and ``out``."""
    command = [sys.executable, "-m", "cloister.cli.main", "serve", "--listen", f"127.0.0.1:{free_port()}", "--data-dir", str(data_dir)]
    with (data_dir / "log").open("w") as log, (data_dir / "out").open("w") as out:
        return subprocess.Popen(command, stdout=out, stderr=log, text=True)


def newer(path: Path) -> None:
    """A database of a later release."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 999")


def damaged(path: Path) -> None:
    """No database at all."""
    path.write_text("what a power cut left " * 1000)


@pytest.mark.parametrize(("spoil", "cause"), [(newer, "schema is 999"), (damaged, "is damaged")])
def test_database_that_cannot_be_used(data_dir: Path, spoil: object, cause: str, stock_templates: None) -> None:
    """The server exits with code 2 at once, names file, cause and remedy once, and leaves nothing."""
    assert callable(spoil)
    spoil(data_dir / "api" / "cloister.db")
    assert start(data_dir).wait(60) == 2
    log = (data_dir / "log").read_text()
    told = [line for line in log.splitlines() if line.startswith("cloister: cannot use the database")]
    assert len(told) == 1, log
    assert str(data_dir / "api" / "cloister.db") in told[0]
    assert cause in told[0]
    assert (data_dir / "out").read_text() == ""
    listed = subprocess.run(
        [sys.executable, "-m", "cloister.cli.main", "census", "--data-dir", str(data_dir)], capture_output=True, text=True, check=True
    )
    assert listed.stdout.startswith("0 live sandboxes, 0 objects held, 0 left over")


def test_start_that_is_broken_off_is_not_ready(data_dir: Path, stock_templates: None) -> None:
    """A stop while the api process cannot open its database yet ends the server, without a ready line."""
    with closing(sqlite3.connect(data_dir / "api" / "cloister.db", isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        launcher = start(data_dir)
        eventually(lambda: "node.started" in (data_dir / "log").read_text(), 60)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(60) == 0
    assert (data_dir / "out").read_text() == ""


def test_damage_while_sandboxes_live(stock_templates: None) -> None:
    """A server with a damaged database ends and leaves its sandboxes. With a repaired database it finds them again."""
    with running_server(*QUICK) as first:
        sandbox = Sandbox.create(timeout=300, **first.sdk)
        python(sandbox, "kept = 7")
        files = list((first.data_dir / "api").glob("cloister.db*"))
        good = {path: path.read_bytes() for path in files}
        for path in files:
            damaged(path)
        _kill_api(first)
        assert first.process.wait(60) == 2
        for path, content in good.items():
            path.write_bytes(content)
            shutil.chown(path, path.parent.stat().st_uid)
        with running_server(*QUICK, "--listen", first.url.removeprefix("http://"), data_dir=first.data_dir):
            assert python(sandbox, "print(kept)") == "7"


def test_revoked_default_key_stays_revoked(stock_templates: None) -> None:
    """After a restart neither the revoked key works nor another one is in its place."""
    with running_server(*QUICK) as server:
        (key,) = json.loads(server.cli("key", "list", "--json").stdout)
        server.cli("key", "revoke", key["id"])
        pid = server.child("api")
        server.kill_child("api")
        eventually(lambda: server.log.read_text().count("api.started") > 1, 60)
        assert server.child("api") != pid
        assert server.api_key not in (server.data_dir / "api" / "client.env").read_text()
        told = server.cli("env")
        assert "E2B_API_KEY" not in told.stdout
        assert "cloister key create" in told.stderr
        assert [one["state"] for one in json.loads(server.cli("key", "list", "--json").stdout)] == ["revoked"]


def _kill_api(server: Server) -> None:
    subprocess.run(["kill", "-9", str(server.child("api"))], check=True)
