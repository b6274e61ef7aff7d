"""File transfer by plain HTTP: what the SDKs do not ask for, signed URLs, browsers, broken uploads, and a gigabyte."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from e2b import AsyncSandbox
from e2b_code_interpreter import Sandbox

from framework.inside import shell
from framework.server import Server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]
_BIG_BYTES = 1 << 30
_PEAK_MIB = 110


@dataclass(frozen=True)
class Answer:
    """Status, headers and body."""

    status: int
    headers: Message
    body: bytes

    @property
    def error(self) -> tuple[int, str]:
        """Code and message of a JSON error."""
        told: dict[str, Any] = json.loads(self.body)
        return told["code"], told["message"]


@dataclass(frozen=True)
class Box:
    """A sandbox, and the server that it is on."""

    server: Server
    sandbox: Sandbox

    def ask(self, method: str, query: str, body: bytes | None = None, path: str = "/files", **headers: str) -> Answer:
        """A request with the sandbox's id and token."""
        token = self.sandbox._envd_access_token or ""
        named = {"E2b-Sandbox-Id": self.sandbox.sandbox_id, "E2b-Sandbox-Port": "49983", "X-Access-Token": token}
        return fetch(
            f"{self.server.url}{path}?{query}", method, body, named | {key.replace("_", "-"): value for key, value in headers.items()}
        )


def fetch(url: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
    """A request; errors are answers too."""
    request = urllib.request.Request(url, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return Answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read())


@pytest.fixture(scope="module")
def box(server: Server) -> Iterator[Box]:
    """One sandbox for the module."""
    sandbox = Sandbox.create(timeout=600, **server.sdk)
    yield Box(server, sandbox)
    sandbox.kill()


def test_ranges_and_conditions(box: Box) -> None:
    """Ranges, HEAD and conditional requests answer as HTTP has them."""
    box.sandbox.files.write("range", "0123456789")
    whole = box.ask("GET", "path=range")
    assert (whole.status, whole.body, whole.headers["Content-Length"]) == (200, b"0123456789", "10")
    part = box.ask("GET", "path=range", Range="bytes=2-4")
    assert (part.status, part.body, part.headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
    assert box.ask("GET", "path=range", Range="bytes=-3").body == b"789"
    assert box.ask("GET", "path=range", Range="bytes=20-").status == 416
    head = box.ask("HEAD", "path=range")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "10")
    assert box.ask("GET", "path=range", If_None_Match=whole.headers["ETag"]).status == 304
    assert box.ask("GET", "path=range", If_Match='"other"').status == 412
    box.sandbox.files.write("empty", "")
    empty = box.ask("GET", "path=empty")
    assert (empty.status, empty.headers["Content-Length"]) == (200, "0")


def test_codings(box: Box) -> None:
    """Gzip for those who ask for it, an error for those who would take nothing that there is."""
    box.sandbox.files.write("coded", "x" * 100_000)
    packed = box.ask("GET", "path=coded", Accept_Encoding="gzip")
    assert (packed.headers["Content-Encoding"], gzip.decompress(packed.body)) == ("gzip", b"x" * 100_000)
    assert box.ask("GET", "path=coded", Accept_Encoding="gzip", Range="bytes=0-1").body == b"xx"
    assert box.ask("GET", "path=coded", Accept_Encoding="gzip, deflate, br").headers["Content-Encoding"] is None
    assert box.ask("GET", "path=coded", Accept_Encoding="identity;q=0").status == 406


@pytest.mark.parametrize(
    ("method", "query", "status"),
    [
        ("GET", "path=nothing", 404),
        ("GET", "path=/home/user", 400),
        ("GET", "path=a/b", 400),
        ("GET", "path=" + "x" * 10_000, 400),
        ("GET", "path=a%00b", 400),
        ("GET", "path=/etc/shadow&username=user", 403),
        ("GET", "path=a&username=nobody-here", 401),
        ("POST", "path=/etc/new&username=user", 403),
        ("POST", "path=a/b", 400),
        ("POST", "", 400),
        ("PUT", "path=a", 405),
        ("DELETE", "path=a", 405),
    ],
)
def test_each_error_has_its_status(box: Box, method: str, query: str, status: int) -> None:
    """Errors are JSON with code and message, each with its own status."""
    box.sandbox.files.write("a", "file")
    answer = box.ask(method, query, b"x" if method == "POST" else None, Content_Type="application/octet-stream")
    assert (answer.status, answer.error[0]) == (status, status)


def test_the_published_text_of_a_missing_file(box: Box) -> None:
    """A missing file is told in the published words."""
    assert box.ask("GET", "path=/home/user/nothing").error == (404, "path '/home/user/nothing' does not exist")


def test_user_by_basic_authentication(box: Box) -> None:
    """The user may also be named by basic authentication."""
    answer = box.ask("GET", "path=/etc/shadow", Authorization="Basic cm9vdDo=")
    assert (answer.status, answer.body[:5]) == (200, b"root:")
    assert box.ask("GET", "path=/etc/shadow", Authorization="Basic !").status == 401


@pytest.mark.parametrize("user", [None, "root"])
def test_signed_urls(box: Box, user: str | None) -> None:
    """A signed URL without any header reads and writes, as its user, and nothing else."""
    sandbox = box.sandbox
    upload = sandbox.upload_url("signed é", user, use_signature_expiration=60)
    written = fetch(upload, "POST", b"by url", {"Content-Type": "application/octet-stream"})
    assert (written.status, json.loads(written.body)[0]["path"]) == (200, f"{'/root' if user else '/home/user'}/signed é")
    download = sandbox.download_url("signed é", user)
    assert fetch(download).body == b"by url"
    assert fetch(download, "HEAD").status == 200
    assert fetch(download, "POST", b"x").status == 401
    assert fetch(download.replace("path=signed", "path=other")).status == 401
    assert fetch(sandbox.download_url("signed é", user, use_signature_expiration=-5)).error == (401, "signature is already expired")


def test_signatures_by_sandbox_id(box: Box) -> None:
    """With the sandbox named by headers, the agent itself tells what is wrong with a signature."""
    named = {"E2b-Sandbox-Id": box.sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    assert fetch(f"{box.server.url}/files?path=a", headers=named).error == (401, "missing signature query parameter")
    assert fetch(f"{box.server.url}/files?path=a&signature=v1_x", headers=named).error == (401, "invalid signature")
    assert fetch(f"{box.server.url}/files?path=a", headers=named | {"X-Access-Token": "wrong"}).status == 401


def test_a_signed_url_ends_with_its_sandbox(server: Server) -> None:
    """A signed URL of a sandbox that was killed is refused."""
    sandbox = Sandbox.create(timeout=60, **server.sdk)
    sandbox.files.write("x", "1")
    url = sandbox.download_url("x")
    assert fetch(url).body == b"1"
    sandbox.kill()
    assert fetch(url).status == 401


def test_browsers(box: Box) -> None:
    """A page of any origin may ask, and may read the answer."""
    box.sandbox.files.write("page", "1")
    url = box.sandbox.download_url("page")
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-access-token"}
    preflight = fetch(url, "OPTIONS", headers=asked)
    assert (preflight.status, preflight.headers["Access-Control-Allow-Origin"]) == (204, "*")
    assert preflight.headers["Access-Control-Allow-Headers"] == "x-access-token"
    assert fetch(url, headers={"Origin": "https://example.org"}).headers["Access-Control-Allow-Origin"] == "*"


def test_compose(box: Box) -> None:
    """Parts become one file, in order, and are gone; a missing part changes nothing."""
    sandbox = box.sandbox
    for name in ("1", "2", "3"):
        sandbox.files.write(f"parts/{name}", name * 100_000)
    body = json.dumps({"source_paths": ["parts/2", "parts/1", "parts/3"], "destination": "composed/all"}).encode()
    answer = box.ask("POST", "", body, "/files/compose", Content_Type="application/json")
    assert json.loads(answer.body) == {"name": "all", "type": "file", "path": "/home/user/composed/all"}
    assert sandbox.files.read("composed/all") == "2" * 100_000 + "1" * 100_000 + "3" * 100_000
    assert sandbox.files.list("parts") == []
    sandbox.files.write("parts/1", "1")
    missing = json.dumps({"source_paths": ["parts/1", "parts/9"], "destination": "composed/all"}).encode()
    assert box.ask("POST", "", missing, "/files/compose", Content_Type="application/json").status == 404
    assert sandbox.files.read("parts/1") == "1"
    assert len(sandbox.files.read("composed/all")) == 300_000
    assert box.ask("POST", "", b"{", "/files/compose", Content_Type="application/json").status == 400


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"--b\r\n"),
        ("multipart/form-data; boundary=b", b"junk"),
        ("multipart/form-data", b"--b--\r\n"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n--b--\r\n'),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="file"; filename="torn"\r\n\r\nhalf of it'),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="torn"\r\nContent-Length: 99\r\n\r\nx',
        ),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\nx\r\n--b--\r\n"),
        ("text/plain", b"x"),
    ],
)
def test_malformed_forms(box: Box, kind: str, body: bytes) -> None:
    """A malformed form is a 400, and what it was about is as it was."""
    box.sandbox.files.write("torn", "whole")
    assert box.ask("POST", "", body, Content_Type=kind).status == 400
    assert box.sandbox.files.read("torn") == "whole"


@pytest.mark.parametrize("packed", [gzip.compress(os.urandom(10_000))[:-5], b"no gzip"])
def test_broken_gzip(box: Box, packed: bytes) -> None:
    """A compressed upload that is cut off is an error and no file."""
    box.sandbox.files.write("torn", "whole")
    answer = box.ask("POST", "path=torn", packed, Content_Type="application/octet-stream", Content_Encoding="gzip")
    assert answer.status == 400
    assert box.sandbox.files.read("torn") == "whole"
    assert box.ask("POST", "path=torn", b"x", Content_Type="application/octet-stream", Content_Encoding="br").status == 400


def test_an_upload_that_is_broken_off(box: Box) -> None:
    """A client that goes away in the middle leaves the old file and nothing else."""
    box.sandbox.files.write("torn", "whole")
    host, _, port = box.server.url.removeprefix("http://").rpartition(":")
    for framing in ("Content-Length: 5000000", "Transfer-Encoding: chunked"):
        with socket.create_connection((host, int(port))) as sock:
            head = f"POST /files?path=torn HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n{framing}\r\n"
            head += f"E2b-Sandbox-Id: {box.sandbox.sandbox_id}\r\nE2b-Sandbox-Port: 49983\r\nX-Access-Token: {box.sandbox._envd_access_token}\r\n\r\n"
            data = b"x" * 1_000_000
            sock.sendall(head.encode() + (b"f4240\r\n" + data + b"\r\n" if "chunked" in framing else data))
    assert box.sandbox.files.read("torn") == "whole"
    assert shell(box.sandbox, "ls -A /home/user | grep -c cloister; true").text == "0"


def test_a_file_that_shrinks_while_it_is_read(box: Box) -> None:
    """A download that cannot be whole is broken off, not ended as if it were."""
    shell(box.sandbox, "head -c 200M /dev/zero > /home/user/shrinks; chown user /home/user/shrinks")
    host, _, port = box.server.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        url = box.sandbox.download_url("shrinks").removeprefix(box.server.url)
        sock.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        got = len(sock.recv(1000))
        shell(box.sandbox, "truncate -s 1M /home/user/shrinks")
        try:
            while data := sock.recv(1 << 20):
                got += len(data)
        except ConnectionResetError:
            pass
    assert got < 200 << 20


def test_a_small_file_that_is_rewritten_while_it_is_read(box: Box) -> None:
    """Each download has what the file was at one moment: empty, or one whole content, of whichever length."""
    words = ("short", "a longer one", "the longest of all")
    loop = "while :; do " + "; ".join(f"echo {word} > rewritten" for word in words) + "; done"
    writer = box.sandbox.commands.run(loop, background=True, timeout=0)
    try:
        eventually(lambda: box.sandbox.files.exists("rewritten"))
        got = {box.ask("GET", "path=rewritten&username=user").body.decode() for _ in range(1000)}
    finally:
        writer.kill()
    assert got - {""} == {f"{word}\n" for word in words}


class Noise(io.RawIOBase):
    """A file of pseudo-random bytes that is never in memory as a whole."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._block = os.urandom(1 << 20)
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """At most a block."""
        data = self._block[: min(self._left, 1 << 20, size if size > 0 else 1 << 20)]
        self._left -= len(data)
        self.digest.update(data)
        return data


def peak_mib(pid: int) -> int:
    """The most memory that a process ever had in use, and begin anew."""
    status = Path(f"/proc/{pid}/status").read_text()
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+)", status)
    assert found is not None
    return int(found[1]) // 1024


@pytest.mark.slow
@pytest.mark.parametrize("octet_stream", [True, False])
def test_a_gigabyte(server: Server, *, octet_stream: bool) -> None:
    """A gigabyte goes up and down unchanged; neither the agent nor the ingress becomes larger."""
    sandbox = Sandbox.create(timeout=300, **server.sdk)
    try:
        agent, api = agent_of(sandbox), server.child("api")
        peak_mib(agent), peak_mib(api)
        noise = Noise(_BIG_BYTES)
        sandbox.files.write("big", noise, use_octet_stream=octet_stream)
        digest = hashlib.sha256()
        with sandbox.files.read("big", format="stream") as stream:
            for chunk in stream:
                digest.update(chunk)
        assert digest.digest() == noise.digest.digest()
        assert max(peak_mib(agent), peak_mib(api)) < _PEAK_MIB
    finally:
        sandbox.kill()


def agent_of(sandbox: Sandbox) -> int:
    """The process id of the sandbox's agent, on the host; its cgroup names the sandbox."""
    listed = subprocess.run(["pgrep", "-f", r"site/cloister/agent/main\.py"], capture_output=True, text=True, check=False)
    pids = [int(pid) for pid in listed.stdout.split()]
    return next(pid for pid in pids if sandbox.sandbox_id in Path(f"/proc/{pid}/cgroup").read_text())


async def test_async_big_file(box: Box) -> None:
    """The asynchronous SDK streams a large file both ways."""
    options: dict[str, Any] = dict(box.server.sdk)
    sandbox = await AsyncSandbox.connect(box.sandbox.sandbox_id, **options)
    noise = Noise(200 << 20)
    await sandbox.files.write("big-async", noise)
    digest = hashlib.sha256()
    async with await sandbox.files.read("big-async", format="stream") as stream:
        async for chunk in stream:
            digest.update(chunk)
    assert digest.digest() == noise.digest.digest()


def test_javascript_big_file(box: Box) -> None:
    """The JavaScript SDK streams a large file both ways, unchanged, and neither the agent nor the ingress becomes larger."""
    agent, api = agent_of(box.sandbox), box.server.child("api")
    peak_mib(agent), peak_mib(api)
    command = ["node", "transfer.mjs", box.sandbox.sandbox_id, "big-js", str((200 << 20) + 7)]
    environ = {**os.environ, **box.server.environ}
    js = Path(__file__).parent / "js"
    done = subprocess.run(command, cwd=js, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert box.sandbox.files.get_info("big-js").size == (200 << 20) + 7
    assert max(peak_mib(agent), peak_mib(api)) < _PEAK_MIB


def test_links_that_change_under_an_upload(box: Box) -> None:
    """A link that a program swaps all the time never leads an upload of a user who is named to what only root may write."""
    sandbox = box.sandbox
    shell(
        sandbox,
        "mkdir -p /home/user/trap/real /root/prize && chown -R user /home/user/trap && echo safe > /root/prize/f && chmod 755 /root",
    )
    swap = "while :; do ln -sfn real cur; ln -sfn /root/prize cur; ln -sf /root/prize/f real/g; rm -f real/g; done"
    stop = threading.Event()

    def attack() -> None:
        while not stop.is_set():
            shell(sandbox, f"cd /home/user/trap && timeout 3 bash -c '{swap}'; true", user="user")

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        for _ in range(150):
            for path in ("trap/cur/f", "trap/real/g"):
                box.ask("POST", f"path={path}&username=user", b"evil", Content_Type="application/octet-stream")
    finally:
        stop.set()
        attacker.join()
    assert shell(sandbox, "cat /root/prize/f; ls /root/prize").text == "safe\nf"


def test_the_agent_has_nothing_to_complain_of(box: Box) -> None:
    """After all that, the agent's log has no traceback, and it holds no file open."""
    with box.sandbox.files.read("big-async", format="stream") as stream:
        next(stream)
    assert "Traceback" not in box.sandbox.files.read("/var/log/cloister-agent.log", user="root")
    agent, until = agent_of(box.sandbox), time.monotonic() + 10
    while any("/home/" in one or "#" in one for one in open_files(agent)):
        assert time.monotonic() < until
        time.sleep(0.1)


def open_files(pid: int) -> list[str]:
    """What a process has open."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return found
