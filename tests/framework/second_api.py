"""Another api process for a server's supervisor and database, with a listener and a data directory of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.node.instance import RUN_ROOT
from framework.http import call
from framework.server import Server
from framework.waiting import eventually

__all__ = ["SecondApi", "second_api"]


@dataclass
class SecondApi:
    """The process. ``key`` opens every api process of the database."""

    url: str
    key: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def sdk(self) -> dict[str, Any]:
        """Keyword arguments that point the Python SDKs at this process."""
        return {"api_key": self.key, "api_url": self.url, "sandbox_url": self.url}

    def kill(self) -> None:
        """Kill -9 it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def _supervisor_socket(server: Server) -> Path:
    for claim in (RUN_ROOT / "instances").glob("[0-9]"):
        if Path(claim.read_text()) == server.data_dir:
            return RUN_ROOT / claim.name / "supervisor.sock"
    raise AssertionError("the server has no instance number")


def _is_ready(url: str) -> bool:
    try:
        return call(url, "GET", "/health").status == 200
    except OSError:
        return False


@contextlib.contextmanager
def second_api(server: Server, database_url: str) -> Iterator[SecondApi]:
    """The process, ready, while the block lasts."""
    uid = (server.data_dir / "api").stat().st_uid
    with tempfile.TemporaryDirectory(prefix="cloister-second-api-") as name, socket.socket() as listener:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "api").mkdir(mode=0o700)
        shutil.copy(server.data_dir / "api" / "secrets.key", directory / "api")
        for path in (directory / "api", directory / "api" / "secrets.key"):
            os.chown(path, uid, uid)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        fd = str(listener.fileno())
        command = [sys.executable, "-P", "-m", "cloister.cli.main", "api", "--uid", str(uid), "--listen-fd", fd]
        command += ["--node-socket", str(_supervisor_socket(server)), "--data-dir", str(directory)]
        log = directory / "log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                command,
                pass_fds=(listener.fileno(),),
                env={**os.environ, "CLOISTER_DATABASE_URL": database_url},
                stdout=said,
                stderr=said,
                stdin=subprocess.DEVNULL,
            )
        made = SecondApi(f"http://127.0.0.1:{listener.getsockname()[1]}", server.api_key, process, log)
        try:
            eventually(lambda: process.poll() is not None or _is_ready(made.url), timeout_s=120)
            assert process.poll() is None, log.read_text()
            yield made
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
