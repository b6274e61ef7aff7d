"""A server whose listening socket is systemd's: it takes the descriptor, says when it serves, and a restart refuses no connection."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread

import pytest
from e2b_code_interpreter import Sandbox

from cloister.cli.units import UNUSED_CAPABILITIES
from cloister.config.client_env import read_client_env
from framework.server import free_port

pytestmark = [pytest.mark.root, pytest.mark.templates]

_CLOISTER = (sys.executable, "-m", "cloister.cli.main")
_DROPPED = ",".join("-" + name.removeprefix("CAP_").lower() for name in UNUSED_CAPABILITIES)
_AS_SYSTEMD = f'exec 3<&"$0"; export LISTEN_FDS=1 LISTEN_PID=$$; exec setpriv --bounding-set={_DROPPED} --inh-caps={_DROPPED} "$@"'


class Manager:
    """Starts servers as systemd does by the two units: with one listening socket, fewer capabilities, and an address for notifications."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self._states = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._states.bind(str(directory / "notify"))
        self._states.settimeout(90)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """A server, which may not be ready yet."""
        serve = [*_CLOISTER, "serve", "--data-dir", str(self.directory), "--listen", f"127.0.0.1:{self.port}"]
        command = ["bash", "-c", _AS_SYSTEMD, str(self.listener.fileno()), *serve, "--on-stop", "keep", "--pool-size", "0", *options]
        environ = {**os.environ, "NOTIFY_SOCKET": str(self.directory / "notify")}
        with (self.directory / "server.log").open("ab") as log:
            return subprocess.Popen(command, pass_fds=(self.listener.fileno(),), env=environ, stdout=log, stderr=log)

    def cli(self, *words: str) -> str:
        """What a command says about this server."""
        command = [*_CLOISTER, *words, "--data-dir", str(self.directory)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=180).stdout

    def wait_for(self, state: str) -> str:
        """The rest of the notification that begins with ``state``."""
        while not (text := self._states.recv(4096).decode()).startswith(state):
            pass
        return text

    def health(self, results: list[int | str]) -> None:
        """Ask for /health, on a new connection, and append the status or the fault."""
        asked = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            asked.request("GET", "/health")
            results.append(asked.getresponse().status)
        except OSError as error:
            results.append(repr(error))
        finally:
            asked.close()

    def close(self) -> None:
        """Close the sockets."""
        self.listener.close()
        self._states.close()


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Stop the server at the end."""
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory that the api process, which is not root, can enter."""
    with tempfile.TemporaryDirectory(prefix="cloister-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def manager(directory: Path, stock_templates: None) -> Iterator[Manager]:
    """One for a server of this test, of which nothing is left."""
    made = Manager(directory)
    yield made
    made.close()
    assert "0 live sandboxes, 0 objects held, 0 left over" in made.cli("census")


def test_a_restart_refuses_no_connection(manager: Manager) -> None:
    """Connections that arrive while no server runs wait for the next one; its sandbox lives on, and new ones can be created."""
    with ended(manager.start()):
        assert "STATUS=serves on http" in manager.wait_for("READY=1")
        url = f"http://127.0.0.1:{manager.port}"
        sdk = {"api_key": read_client_env(manager.directory).api_key, "api_url": url, "sandbox_url": url}
        sandbox = Sandbox.create(timeout=120, **sdk)
        sandbox.run_code("x = 20")
    manager.wait_for("STOPPING=1")
    results: list[int | str] = []
    asking = [Thread(target=manager.health, args=(results,)) for _ in range(20)]
    for thread in asking:
        thread.start()
    with ended(manager.start()):
        for thread in asking:
            thread.join(90)
        assert results in ([204] * 20, [200] * 20), results
        assert sandbox.run_code("x + 1").text == "21"
        with Sandbox.create(timeout=60, **sdk) as another:
            assert another.run_code("6 * 7").text == "42"
    assert "sandboxes to end: 1" in manager.cli("service", "uninstall", "--unit-dir", str(manager.directory))


def test_a_socket_at_another_address_is_refused(manager: Manager) -> None:
    """The settings were checked for their own address: a public one needs a domain."""
    process = manager.start("--listen", f"127.0.0.1:{free_port()}")
    assert process.wait(60) == 2
    assert "neither listen nor listen_tls" in (manager.directory / "server.log").read_text()


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="this machine has no systemd-socket-activate")
def test_systemds_own_tool_starts_it_at_the_first_connection(directory: Path) -> None:
    """The server takes the descriptor that the tool passes: a refusal of its address shows that it has seen it."""
    port = free_port()
    command = ["systemd-socket-activate", f"--listen=127.0.0.1:{port}", "-E", "PATH", *_CLOISTER, "serve"]
    options = ["--listen", f"127.0.0.1:{free_port()}", "--data-dir", str(directory), "--run-dir", str(directory / "run")]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as tool:
        deadline = time.monotonic() + 30
        while True:
            try:
                client = socket.create_connection(("127.0.0.1", port), timeout=30)
                break
            except ConnectionRefusedError:  # the tool does not listen yet
                assert time.monotonic() < deadline
                time.sleep(0.02)
        with client:
            said, _ = tool.communicate(timeout=60)
    assert f"listens on ('127.0.0.1', {port})" in said, said
    assert tool.returncode == 2
