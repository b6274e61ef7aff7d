"""A real server for tests: ``cloister serve`` with its own data directory on a free loopback port, and a census at the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from cloister.node.instance import RUN_ROOT

__all__ = ["PREFIX", "Server", "end_clean", "end_killed_servers", "free_port", "launched", "read_env", "running_server"]

PREFIX = "cloister-test-"
_OWNER = "test-run.lock"
"""A lock file in a server's data directory. The test run has a shared lock while it needs the directory, even after the server died."""
_START_TIMEOUT_S = 90.0
_ROOM_TIMEOUT_S = 900.0
MAX_FAILED_KEYS = 1_000_000
"""Tests show more wrong keys and tokens to one server than a client may."""


@dataclass
class Server:
    """A running server. ``process`` is the launcher; ``log`` holds what it and its children said."""

    url: str
    api_key: str
    data_dir: Path
    process: subprocess.Popen[bytes]
    log: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def sdk(self) -> dict[str, Any]:
        """Keyword arguments that point the Python SDKs at this server."""
        return {"api_key": self.api_key, "api_url": self.url, "sandbox_url": self.url}

    def child(self, name: str) -> int:
        """The process id of the launcher's child ``node`` or ``api``."""
        listed = subprocess.run(
            ["pgrep", "-P", str(self.process.pid), "-f", f"cloister.cli.main {name}"], capture_output=True, text=True, check=True
        )
        return int(listed.stdout.split()[0])

    def kill_child(self, name: str) -> None:
        """Kill -9 the child ``node`` or ``api``, and wait until another one is there."""
        old = self.child(name)
        os.kill(old, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(subprocess.CalledProcessError, IndexError):
                if self.child(name) != old:
                    return
            assert time.monotonic() < deadline, f"{name} was not started again"
            time.sleep(0.05)

    def cli(self, *words: str, check: bool = True, env: dict[str, str] | None = None, said: str = "") -> subprocess.CompletedProcess[str]:
        """Run a ``cloister`` command against this server's data directory; ``said`` is its standard input."""
        command = [sys.executable, "-m", "cloister.cli.main", *words]
        environ = {**os.environ, "CLOISTER_DATA_DIR": str(self.data_dir), **(env or {})}
        return subprocess.run(command, capture_output=True, text=True, check=check, env=environ, timeout=120, input=said)

    def census(self) -> str:
        """The census; raises when something is left over."""
        done = self.cli("census", check=False)
        assert done.returncode == 0, f"left over:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def stop(self) -> int:
        """Stop cleanly; the launcher's exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(150)


def free_port() -> int:
    """A port below the kernel's range for outgoing connections, so that none of those takes it meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def read_env(text: str) -> dict[str, str]:
    """The variables that ``cloister env`` prints."""
    words = (shlex.split(line.removeprefix("export ")) for line in text.splitlines() if line.startswith("export "))
    return dict(word[0].split("=", 1) for word in words)


@contextlib.contextmanager
def launched(
    directory: Path, *options: str, port: int = 0, umask: int = -1, environ: dict[str, str] | None = None
) -> Iterator[Server]:
    """``cloister serve`` on a data directory while the block lasts, without a key. ``umask`` -1: this process's; ``port`` 0: a free one."""
    with contextlib.ExitStack() as stack:
        directory.chmod(0o755)
        fcntl.flock(stack.enter_context((directory / _OWNER).open("wb")), fcntl.LOCK_SH)
        port = port or free_port()
        log_path = directory / "server.log"
        log = stack.enter_context(log_path.open("ab"))
        command = [sys.executable, "-m", "cloister.cli.main", "serve", "--listen", f"127.0.0.1:{port}", "--data-dir", str(directory)]
        command += ["--max-failed-keys", str(MAX_FAILED_KEYS), *options]
        process = _start(command, directory, log, umask, environ)
        server = Server(f"http://127.0.0.1:{port}", "", directory, process, log_path)
        stack.callback(_end, server)
        yield server


@contextlib.contextmanager
def running_server(*options: str, data_dir: Path | None = None, umask: int = -1) -> Iterator[Server]:
    """A server while the block lasts; afterwards it is stopped and nothing of it may be left on the host. ``umask``: see above."""
    with contextlib.ExitStack() as stack:
        directory = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX)))
        server = stack.enter_context(launched(directory, *options, umask=umask))
        server.environ = read_env(server.cli("env", "--local").stdout)
        server.url, server.api_key = server.environ["E2B_API_URL"], server.environ["E2B_API_KEY"]
        yield server
        end_clean(server)


def end_clean(server: Server) -> None:
    """Stop a server, unless the test has; nothing of it may be left on the host."""
    if server.process.poll() is None:
        assert server.stop() == 0, server.log.read_text()
    census = server.census()
    assert "0 live sandboxes, 0 objects held, 0 left over" in census, census


def _start(
    command: list[str], directory: Path, log: IO[bytes], umask: int, environ: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """The process of a server that is ready. While the host has no number for another server, it waits until a test ends one."""
    until = time.monotonic() + _ROOM_TIMEOUT_S
    while True:
        begun = os.fstat(log.fileno()).st_size
        with (directory / "server.out").open("wb+", buffering=0) as said:
            env = {**os.environ, **(environ or {})}
            process = subprocess.Popen(command, stdout=said, stderr=log, stdin=subprocess.DEVNULL, umask=umask, env=env)
            try:
                ready = _becomes_ready(process, said.fileno())
            except BaseException:
                process.kill()
                process.wait()
                raise
        if ready:
            return process
        told = (directory / "server.log").read_bytes()[begun:].decode()
        assert "servers run on this host already" in told, f"the server ended:\n{told}"
        assert time.monotonic() < until, f"no number for a server became free:\n{told}"
        time.sleep(1)


def _becomes_ready(process: subprocess.Popen[bytes], said: int) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while b"ready" not in os.pread(said, 4096, 0):
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "the server was not ready in time"
        time.sleep(0.02)
    return True


def _end(server: Server) -> None:
    if server.process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.stop()
    if server.process.poll() is None:
        server.process.kill()
        server.process.wait()


def end_killed_servers(run_root: Path = RUN_ROOT) -> None:
    """Remove leftovers of test servers that were killed with their test run. A node on the same data directory adopts them, and stops."""
    for claim in sorted((run_root / "instances").glob("[0-9]")):
        data_dir = Path(claim.read_text())
        ours = next((path for path in (data_dir, *data_dir.parents) if path.name.startswith(PREFIX)), None)
        if ours is None or not data_dir.exists():
            continue
        with (data_dir / _OWNER).open("wb") as owner:
            if _take(owner) and not _is_held(claim):
                _end_node(data_dir)
                shutil.rmtree(ours)


def _end_node(data_dir: Path) -> None:
    ready, theirs = os.pipe()
    command = [sys.executable, "-m", "cloister.cli.main", "node", "--data-dir", str(data_dir), "--ready-fd", str(theirs)]
    log = data_dir / "server.log"
    with log.open("ab") as said, os.fdopen(ready) as line:
        process = subprocess.Popen(command, pass_fds=(theirs,), stderr=said)
        os.close(theirs)
        line.readline()
        process.terminate()
        code = process.wait(150)
    assert code == 0, f"what a killed test run left of the server of {data_dir} cannot be removed: {log.read_text()}"


def _is_held(claim: Path) -> bool:
    with claim.open() as file:
        return not _take(file)


def _take(file: IO[Any]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
