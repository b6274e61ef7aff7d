"""Auto-pause at the end of the time, and waking by traffic: by whom, how often, and for how long."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import pytest
from e2b import AsyncSandbox, Sandbox, SandboxNotRunningException, SandboxState
from websockets.asyncio.client import connect

from framework.lifecycles import ENVD, KINDS, WEB_SERVER, api, boot_id, inside, lifetime_s, new, state, until
from framework.server import Server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]

PAUSE: Any = {"on_timeout": "pause"}
WAKE: Any = {"on_timeout": "pause", "auto_resume": True}
ECHO = """
import hashlib, http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        size = int(self.headers.get("Content-Length") or 0)
        body = hashlib.sha256(self.rfile.read(size)).hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"""
SOCKET = """
import base64, hashlib, socket
server = socket.create_server(("127.0.0.1", 8001))
while True:
    client, _ = server.accept()
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        head += client.recv(4096)
    key = next(l.split(b": ")[1] for l in head.split(b"\\r\\n") if l.lower().startswith(b"sec-websocket-key"))
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    client.sendall(b"HTTP/1.1 101 S\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Accept: " + accept + b"\\r\\n\\r\\n")
    client.sendall(b"\\x81\\x05awake")
"""
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) Chrome/120 Safari/537"


def serving(server: Server, sandbox: Sandbox) -> None:
    """Start the echoing web server, and wait until it answers."""
    sandbox.files.write("echo.py", ECHO)
    sandbox.commands.run("python3 echo.py", background=True)
    token = sandbox.traffic_access_token
    eventually(lambda: inside(server, sandbox.sandbox_id, 8000, **({"E2B_Traffic_Access_Token": token} if token else {})).status == 200)


@pytest.mark.parametrize("mode", KINDS)
def test_the_end_of_the_time_pauses(mode: Any, server: Server) -> None:
    """``set_timeout(0)`` pauses a sandbox with auto-pause, in the kind it asked for, and keeps its files."""
    with new(server, lifecycle={"on_timeout": {"action": "pause", "mode": mode}}) as sandbox:
        boot = boot_id(sandbox)
        for number in range(2):
            sandbox.files.write(f"round{number}", "kept")
            sandbox.set_timeout(0)
            until(server, sandbox.sandbox_id, "paused")
            lifecycle = sandbox.get_info().lifecycle
            assert lifecycle == {"on_timeout": "pause", "auto_resume": False}
            assert not sandbox.is_running()
            sandbox.connect(timeout=100)
            assert sandbox.files.read(f"round{number}") == "kept"
            assert (boot_id(sandbox) == boot) is (mode == "full")


def test_the_end_of_the_time_kills_without_it(server: Server) -> None:
    """Without auto-pause the end of the time ends the sandbox, also after a pause and a resume."""
    for is_paused_first in (False, True):
        with new(server) as sandbox:
            if is_paused_first:
                assert sandbox.pause()
                sandbox.connect(timeout=100)
            sandbox.set_timeout(0)
            until(server, sandbox.sandbox_id, "gone")


def test_a_short_life_pauses_by_itself(server: Server) -> None:
    """The sandbox is paused after its second of life, and a resume lasts as long as asked."""
    with new(server, timeout=1, lifecycle=PAUSE) as sandbox:
        sandbox.commands.run("sleep 1000", background=True)
        until(server, sandbox.sandbox_id, "paused")
        info = sandbox.get_info()
        assert info.state is SandboxState.PAUSED
        assert 0.5 < (info.end_at - info.started_at).total_seconds() < 10
        sandbox.connect(timeout=50)
        assert len(sandbox.commands.list()) == 1
        assert abs(lifetime_s(server, sandbox.sandbox_id) - 50) < 1


def test_resume_may_change_the_choice(server: Server) -> None:
    """``autoPause`` of a resume overrides the choice of the creation, and stays."""
    with new(server) as sandbox:
        path = f"/sandboxes/{sandbox.sandbox_id}"
        assert sandbox.pause()
        assert api(server, "POST", f"{path}/resume", {"timeout": 100, "autoPause": True}).status == 201
        for _ in range(2):
            sandbox.set_timeout(0)
            until(server, sandbox.sandbox_id, "paused")
            sandbox.connect(timeout=100)


def test_commands_and_files_wake(server: Server) -> None:
    """A command, a file, a list and a health check wake it, and find it as it was."""
    with new(server, lifecycle=WAKE) as sandbox:
        assert sandbox.get_info().lifecycle == {"on_timeout": "pause", "auto_resume": True}
        boot = boot_id(sandbox)
        sandbox.files.write("note", "kept")
        wakes: tuple[Callable[[], bool | None], ...] = (
            lambda: sandbox.commands.run("echo here").stdout == "here\n",
            lambda: sandbox.files.read("note") == "kept",
            lambda: len(sandbox.files.list("/home/user")) > 0,
            sandbox.is_running,
            lambda: sandbox.commands.list() == [],
            lambda: sandbox.files.write("more", "x" * 100_000).name == "more",
        )
        for wake in wakes:
            assert sandbox.pause()
            assert wake()
            assert state(server, sandbox.sandbox_id) == "running"
        assert boot_id(sandbox) == boot


def test_requests_wake(server: Server) -> None:
    """A GET, a large POST and a browser's request wake it, and are answered as if it had run."""
    with new(server, lifecycle=WAKE) as sandbox:
        serving(server, sandbox)
        to = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8000"}
        body = bytes(range(256)) * 20_000
        for content, agent in ((b"", "curl/8"), (body, "curl/8"), (b"", BROWSER)):
            assert sandbox.pause()
            answer = httpx.request(
                "POST" if content else "GET", server.url, headers=to | {"User-Agent": agent}, content=content, timeout=30
            )
            assert (answer.status_code, answer.text) == (200, hashlib.sha256(content).hexdigest())
            assert state(server, sandbox.sandbox_id) == "running"


async def test_a_websocket_wakes(server: Server) -> None:
    """A WebSocket's handshake wakes it, and the socket works."""
    sandbox = await AsyncSandbox.create("base", timeout=300, lifecycle=WAKE, **server.sdk)
    await sandbox.files.write("ws.py", SOCKET)
    await sandbox.commands.run("python3 ws.py", background=True)
    to = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8001"}
    await sandbox.commands.run("until grep -q ':1F41 ' /proc/net/tcp; do sleep 0.05; done")
    assert await sandbox.pause()
    async with connect(server.url.replace("http", "ws"), additional_headers=to, close_timeout=0.1) as client:
        assert await asyncio.wait_for(client.recv(), 10) == "awake"
    assert (await sandbox.get_info()).state is SandboxState.RUNNING
    await sandbox.kill()


def test_many_requests_wake_it_once(server: Server) -> None:
    """Twenty requests at once, to a port and to the agent, are answered after one resume."""
    with new(server, lifecycle=WAKE) as sandbox:
        serving(server, sandbox)
        assert sandbox.pause()

        def ask(number: int) -> bool:
            if number % 4 == 0:
                return sandbox.commands.run("echo here").stdout == "here\n"
            return inside(server, sandbox.sandbox_id, 8000).status == 200

        with ThreadPoolExecutor(20) as pool:
            assert all(pool.map(ask, range(20)))
        log = json.loads(api(server, "GET", f"/sandboxes/{sandbox.sandbox_id}/logs").body)["logEntries"]
        resumed = [entry for entry in log if entry["fields"].get("event") == "sandbox.resumed"]
        assert len(resumed) == 1


@pytest.mark.parametrize(("lifecycle", "mode"), [(None, "full"), (PAUSE, "full"), (WAKE, "filesystem")], ids=["unset", "off", "files"])
def test_traffic_does_not_wake(lifecycle: Any, mode: Any, server: Server) -> None:
    """Without the choice, or with files only, requests get 502, as JSON or as a page for browsers."""
    with new(server, lifecycle=lifecycle) as sandbox:
        sandbox.commands.run(WEB_SERVER, background=True)
        assert sandbox.pause(mode=mode)
        answer = inside(server, sandbox.sandbox_id, 8000)
        assert answer.status == 502
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        told = answer.json()
        assert (told["sandboxId"], told["message"], told["code"]) == (sandbox.sandbox_id, "The sandbox was not found", 502)
        page = inside(server, sandbox.sandbox_id, 8000, User_Agent=BROWSER)
        assert page.status == 502
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        text = page.body.decode().strip()
        assert text.startswith("<html")
        assert text.endswith("</html>")
        assert "Sandbox Not Found" in text
        assert sandbox.sandbox_id in text
        for more in ({"Sec_Fetch_Mode": "cors"}, {"X_Requested_With": "fetch"}, {"Accept": "application/json"}):
            kind = inside(server, sandbox.sandbox_id, 8000, User_Agent=BROWSER, **more).headers["Content-Type"]
            assert kind.startswith("application/json"), more
        assert not sandbox.is_running()
        with pytest.raises(SandboxNotRunningException):
            sandbox.commands.run("true")
        assert state(server, sandbox.sandbox_id) == "paused"


def test_strangers_do_not_wake(server: Server) -> None:
    """Requests without the right token are 403 and wake nothing."""
    with new(server, lifecycle=WAKE, network={"allow_public_traffic": False}) as sandbox:
        serving(server, sandbox)
        sandbox.files.write("note", "secret")
        signed = sandbox.download_url("note", user="user")
        assert sandbox.pause()
        wrong = "wrong" * 8
        asked = [
            inside(server, sandbox.sandbox_id, ENVD, "/health"),
            inside(server, sandbox.sandbox_id, ENVD, "/health", X_Access_Token=wrong),
            inside(server, sandbox.sandbox_id, ENVD, "/files?path=note"),
            inside(server, sandbox.sandbox_id, 8000),
            inside(server, sandbox.sandbox_id, 8000, E2B_Traffic_Access_Token=wrong),
        ]
        assert [answer.status for answer in asked] == [403] * 5, [answer.body for answer in asked]
        assert httpx.get(signed).status_code == 403
        assert state(server, sandbox.sandbox_id) == "paused"
        assert inside(server, sandbox.sandbox_id, 8000, E2B_Traffic_Access_Token=str(sandbox.traffic_access_token)).status == 200
        assert state(server, sandbox.sandbox_id) == "running"
        assert httpx.get(signed).text == "secret"


def test_how_long_it_stays_awake(server: Server) -> None:
    """A wake lasts as long as the creation asked, at least 300 s, whatever came later."""
    for timeout, awake_s in ((60, 300), (420, 420)):
        with new(server, timeout=timeout, lifecycle=WAKE) as sandbox:
            sandbox.set_timeout(600)
            for _ in range(2):
                assert sandbox.pause()
                assert sandbox.commands.run("echo here").stdout == "here\n"
                assert abs(lifetime_s(server, sandbox.sandbox_id) - awake_s) < 5
                sandbox.connect(timeout=700)


def test_traffic_never_extends(server: Server) -> None:
    """Requests to a running sandbox leave its end as it is."""
    with new(server, lifecycle=WAKE) as sandbox:
        before = datetime.fromisoformat(api(server, "GET", f"/sandboxes/{sandbox.sandbox_id}").json()["endAt"])
        sandbox.commands.run("true")
        assert datetime.fromisoformat(api(server, "GET", f"/sandboxes/{sandbox.sandbox_id}").json()["endAt"]) == before


def test_a_kill_while_it_is_being_woken(server: Server) -> None:
    """A kill always wins over wakes and pauses at the same time, and every call is answered."""
    for _ in range(5):
        with new(server, lifecycle=WAKE) as sandbox:
            path = f"/sandboxes/{sandbox.sandbox_id}"
            assert sandbox.pause()
            with ThreadPoolExecutor(6) as pool:
                asked = [pool.submit(inside, server, sandbox.sandbox_id, 8000) for _ in range(3)]
                killed = pool.submit(api, server, "DELETE", path)
                paused = pool.submit(api, server, "POST", f"{path}/pause")
                assert killed.result().status == 204
                assert paused.result().status in (204, 404, 409)
                assert {one.result().status for one in asked} <= {404, 409, 502}
            assert state(server, sandbox.sandbox_id) == "gone"
            assert api(server, "POST", f"{path}/resume").status == 404
