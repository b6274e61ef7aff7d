"""The api process as the launcher starts it, and the commands that work beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from framework.fake_node import FakeNode
from framework.http import call
from framework.waiting import eventually
from framework.webhook_receiver import receiver

pytestmark = pytest.mark.root
UID = 0x10000001


@dataclass
class ApiProcess:
    """A running api process over a fake node."""

    url: str
    data_dir: Path
    node: FakeNode
    loop: asyncio.AbstractEventLoop
    listener: socket.socket
    process: subprocess.Popen[str]

    def cli(self, *words: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A ``cloister`` command on its data directory, without an SDK's variables."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")} | {
            "CLOISTER_DATA_DIR": str(self.data_dir)
        }
        command = [sys.executable, "-m", "cloister.cli.main", *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=check, env=environ, timeout=30)

    def start(self) -> None:
        """Start the process and wait until it serves."""
        words = ["api", "--uid", str(UID), "--listen-fd", str(self.listener.fileno()), "--node-socket", str(self.node.path)]
        words += ["--webhook-allow-private", "127.0.0.0/8"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cloister.cli.main", *words, "--data-dir", str(self.data_dir)],
            pass_fds=(self.listener.fileno(),),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        deadline = time.monotonic() + 20
        while call(self.url, "GET", "/health").status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def api() -> Iterator[ApiProcess]:
    """An api process in directories that its uid can reach."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(30)  # type: ignore[arg-type]  # a coroutine, which it takes

    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as listener:
        directory = Path(name)
        directory.chmod(0o711)
        (directory / "api").mkdir(mode=0o700)
        os.chown(directory / "api", UID, UID)
        node = FakeNode(directory / "node.sock", allowed_uids=(UID,))
        run(node.start())
        api = ApiProcess(f"http://127.0.0.1:{listener.getsockname()[1]}", directory, node, loop, listener, None)  # type: ignore[arg-type]  # the test needs no process
        api.start()
        yield api
        api.process.terminate()
        assert api.process.wait(20) == 0, "the api process did not end cleanly on SIGTERM"
        assert api.process.stdout is not None
        assert api.process.stdout.read() == "", "the api process wrote on standard output"
        api.process.stdout.close()
        run(node.close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_it_has_no_privileges(api: ApiProcess) -> None:
    """It runs with its own uid and gid, no other groups, no capability, and cannot gain any (I1)."""
    status = Path(f"/proc/{api.process.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == fields["Gid"].split() == [str(UID)] * 4
    assert fields["Groups"].strip() == ""
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    for path in (api.data_dir / "api").iterdir():
        assert (path.stat().st_uid, path.stat().st_mode & 0o077) == (UID, 0)


def test_it_does_not_run_as_root(tmp_path: Path) -> None:
    """Without a uid to become it refuses to start as root."""
    words = ["api", "--listen-fd", "0", "--node-socket", "/x", "--data-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "cloister.cli.main", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "must not run as root" in done.stderr


def test_keys(api: ApiProcess) -> None:
    """Keys are made, listed without their secret, used and revoked while the server runs."""
    secret = api.cli("key", "create", "for tests", "--team", "other").stdout.strip()
    listing = api.cli("key", "list").stdout
    (line,) = (line for line in listing.splitlines() if "for tests" in line)
    assert secret not in listing
    assert "other" in line
    assert call(api.url, "GET", "/sandboxes", headers={"X-API-KEY": secret}).status == 200
    api.cli("key", "revoke", line.split()[0])
    assert call(api.url, "GET", "/sandboxes", headers={"X-API-KEY": secret}).status == 401
    again = api.cli("key", "revoke", line.split()[0], check=False)
    assert again.returncode == 1
    assert "not revoked yet" in again.stderr


def test_a_revoked_default_key(api: ApiProcess) -> None:
    """Once the default key is revoked, ``env`` and ``run`` no longer give it out, and say what to do; the file stays the api process's own."""
    (line,) = (line for line in api.cli("key", "list").stdout.splitlines() if " default " in line)
    assert "key create" in api.cli("key", "revoke", line.split()[0]).stderr
    assert "E2B_API_KEY" not in api.cli("env").stdout
    assert "default API key was revoked" in api.cli("run", "--language", "python", "-", stdin="hi", check=False).stderr
    file = (api.data_dir / "api" / "client.env").stat()
    assert (file.st_uid, file.st_gid, file.st_mode & 0o777) == (UID, UID, 0o600)


def test_run(api: ApiProcess, tmp_path: Path) -> None:
    """``cloister run --kernel`` streams a cell's output, tells by its exit code how it went, and leaves no sandbox."""
    for code, status, stdout, stderr in (("hello", 0, "hello\nhello\n", ""), ("boom", 1, "", "Traceback: it burst\n")):
        file = tmp_path / "program.py"
        file.write_text(code)
        done = api.cli("run", "--kernel", str(file), check=False)
        assert (done.returncode, done.stdout, done.stderr) == (status, stdout, stderr)
    assert api.node.sandboxes == {}
    assert "give --language" in api.cli("run", "program.xyz", check=False).stderr
    assert api.cli("run", "--kernel", "--language", "python", "-", stdin="hi").stdout == "hi\nhi\n"


def test_interrupted_run(api: ApiProcess, tmp_path: Path) -> None:
    """``cloister run`` ended by Ctrl-C kills its sandbox."""
    (tmp_path / "program.py").write_text("forever")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")}
    words = [sys.executable, "-m", "cloister.cli.main", "run", "--kernel", "--data-dir", str(api.data_dir), str(tmp_path / "program.py")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    assert process.stdout is not None
    assert process.stdout.readline() == "tick\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert api.node.sandboxes == {}


def test_run_that_is_cut_off(api: ApiProcess, tmp_path: Path) -> None:
    """``cloister run`` whose sandbox ends before the program says why, and does not blame the server."""
    (tmp_path / "program.py").write_text("forever")
    key = api.cli("env").stdout.partition("E2B_API_KEY=")[2].split()[0]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")}
    words = [sys.executable, "-m", "cloister.cli.main", "run", "--kernel", "--data-dir", str(api.data_dir), str(tmp_path / "program.py")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "tick\n"
        (sandbox_id,) = api.node.sandboxes
        assert call(api.url, "DELETE", f"/sandboxes/{sandbox_id}", headers={"X-API-KEY": key}).status == 204
        _, said = process.communicate(timeout=20)
    assert process.returncode == 125
    assert said.startswith(f"cloister: the run was cut off before its end: sandbox {sandbox_id} doesn't exist or you don't have access to it: ")


def test_kill_nine(api: ApiProcess) -> None:
    """After ``kill -9`` and a new start, keys, sandboxes and the open port are as before."""
    key = api.cli("env").stdout.partition("E2B_API_KEY=")[2].split()[0]
    headers = {"X-API-KEY": key}
    sandbox_id = call(api.url, "POST", "/v2/sandboxes", body={"templateID": "base"}, headers=headers).json()["sandboxID"]
    api.process.kill()
    api.process.wait()
    with contextlib.closing(api.process.stdout):  # type: ignore[type-var]  # a pipe was asked for
        api.start()
    assert api.cli("env").stdout.partition("E2B_API_KEY=")[2].split()[0] == key
    assert [entry["sandboxID"] for entry in call(api.url, "GET", "/v2/sandboxes", headers=headers).json()] == [sandbox_id]
    at = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": "49983"}
    assert call(api.url, "GET", "/health", headers=at).status == 204


def test_kill_nine_before_a_delivery_has_arrived(api: ApiProcess) -> None:
    """An event whose delivery is under way at a ``kill -9`` is delivered after the next start; its id tells that it is the same."""
    key = api.cli("env").stdout.partition("E2B_API_KEY=")[2].split()[0]
    headers = {"X-API-KEY": key}
    is_open = threading.Event()
    with receiver() as hook:
        hook.before_answer = lambda: is_open.wait(20)
        types = [f"sandbox.lifecycle.{word}" for word in ("created", "killed")]
        body = {"name": "n", "url": hook.url, "events": types, "signatureSecret": "s"}
        made = call(api.url, "POST", "/events/webhooks", body=body, headers=headers)
        assert made.status == 201, made.body
        sandbox_id = call(api.url, "POST", "/v2/sandboxes", body={"templateID": "base"}, headers=headers).json()["sandboxID"]
        assert call(api.url, "DELETE", f"/sandboxes/{sandbox_id}", headers=headers).status == 204
        eventually(lambda: hook.received)
        api.process.kill()
        api.process.wait()
        is_open.set()
        with contextlib.closing(api.process.stdout):  # type: ignore[type-var]  # a pipe was asked for
            api.start()
        eventually(lambda: hook.types[-1] == "killed")
        assert hook.types == ["created", "created", "killed"]
        assert hook.received[0].event["id"] == hook.received[1].event["id"]
        path = f"/events/webhooks/{made.json()['id']}/deliveries"
        eventually(lambda: call(api.url, "GET", path, headers=headers).json() == [])
    events = call(api.url, "GET", "/events/sandboxes", headers=headers).json()
    assert [one["type"] for one in events] == types[::-1]


def test_kill_nine_during_a_creation(api: ApiProcess) -> None:
    """If the api process dies during a creation, the next start kills the sandbox, because no client knows it."""
    key = api.cli("env").stdout.partition("E2B_API_KEY=")[2].split()[0]
    api.node.create_delay_s = 1.0
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2]))) as sock:
        body = b'{"templateID": "base"}'
        sock.sendall(
            b"POST /v2/sandboxes HTTP/1.1\r\nHost: h\r\nX-API-KEY: %s\r\nContent-Length: %d\r\n\r\n%s" % (key.encode(), len(body), body)
        )
        while not api.node.creates:
            time.sleep(0.01)
        api.process.kill()
        api.process.wait()
    eventually(lambda: len(api.node.sandboxes) == 1)
    with contextlib.closing(api.process.stdout):  # type: ignore[type-var]  # a pipe was asked for
        api.start()
    assert api.node.sandboxes == {}
    assert call(api.url, "GET", "/sandboxes", headers={"X-API-KEY": key}).json() == []
