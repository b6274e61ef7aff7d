"""The ingress before real servers in a real sandbox, all of them listening on the sandbox's loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import itertools
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from framework.http import call
from framework.served import FILES, FLASK, NODE, NODE_6, WEBSOCKETS, Served, served_sandbox
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def served(server: Server) -> Iterator[Served]:
    """One sandbox with all servers, for all tests here."""
    with served_sandbox(server) as inside:
        yield inside


@contextlib.contextmanager
def connection(served: Served) -> Iterator[socket.socket]:
    """A raw connection to the server."""
    with socket.create_connection(("127.0.0.1", int(served.server.url.rpartition(":")[2])), timeout=20) as sock:
        yield sock


def read_until(sock: socket.socket, end: bytes) -> bytes:
    """All bytes up to ``end`` or the end of the connection."""
    seen = b""
    while end not in seen and (part := sock.recv(65536)):
        seen += part
    return seen


@pytest.mark.parametrize("port", [FILES, NODE, NODE_6, FLASK])
def test_programs_on_loopback_are_reached(served: Served, port: int) -> None:
    """Servers that listen on 127.0.0.1 only, or on ::1 only, answer."""
    assert call(served.server.url, "GET", "/", headers=served.to(port)).status in {200, 404}


def test_port_on_no_loopback(served: Served) -> None:
    """A port on which nothing listens, on either loopback, is reported as closed."""
    answer = call(served.server.url, "GET", "/", headers=served.to(8999))
    assert (answer.status, answer.json()["message"]) == (502, "The sandbox is running but port is not open")


def test_files(served: Served) -> None:
    """http.server: a file, HEAD with its length and no body, a directory's redirect to its trailing slash, an encoded name."""
    whole = call(served.server.url, "GET", "/hello.txt", headers=served.to(FILES))
    assert (whole.status, whole.body) == (200, b"hello\n")
    head = call(served.server.url, "HEAD", "/hello.txt", headers=served.to(FILES))
    assert (head.status, head.headers["Content-Length"], head.body) == (200, "6", b"")
    moved = call(served.server.url, "GET", "/a%20dir", headers=served.to(FILES))
    assert (moved.status, moved.headers["Location"]) == (301, "/a%20dir/")
    assert call(served.server.url, "GET", "/a%20dir/", headers=served.to(FILES)).status == 200


@pytest.mark.parametrize("target", ["/a%2Fb/../c//d/?x=%20+&y=%C3%A9", "/?", "/trailing/", "/%7Euser/%2e%2e/;p=1"])
def test_targets_are_untouched(served: Served, target: str) -> None:
    """Path and query reach the program byte for byte."""
    with connection(served) as sock:
        sock.sendall(served.head(NODE, f"GET {target}", "Connection: close"))
        seen = read_until(sock, b"\0").partition(b"\r\n\r\n")[2]
    assert json.loads(re.sub(rb"^[0-9a-f]+\r\n|\r\n[0-9a-f]*\r\n.*$", b"", seen, flags=re.DOTALL))["url"] == target


def test_keep_alive(served: Served) -> None:
    """Many requests on one client connection use one connection to the program, both kept open."""
    client = http.client.HTTPConnection(served.server.url.removeprefix("http://"), timeout=20)
    peers = set()
    for number in range(20):
        client.request("POST", f"/{number}", body=b"x" * number, headers=served.to(NODE))
        peers.add(json.loads(client.getresponse().read())["peer"])
    client.close()
    assert len(peers) == 1


def test_chunked_both_ways(served: Served) -> None:
    """Chunks go in and come out as they are sent, neither side waiting for the other's end."""
    with connection(served) as sock:
        sock.sendall(served.head(NODE, "POST /duplex", "Transfer-Encoding: chunked"))
        for word in (b"first", b"second", b"third"):
            sock.sendall(b"%x\r\n%s\r\n" % (len(word), word))
            assert word in read_until(sock, word)
        sock.sendall(b"0\r\n\r\n")
        assert read_until(sock, b"0\r\n\r\n").endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(("port", "target", "count"), [(NODE, "/events", 5), (FLASK, "/ticks", 4)])
def test_events_are_not_held_back(served: Served, port: int, target: str, count: int) -> None:
    """Server-sent events and slowly written lines arrive one by one, when they are written."""
    client = http.client.HTTPConnection(served.server.url.removeprefix("http://"), timeout=20)
    client.request("GET", target, headers=served.to(port))
    response, arrivals = client.getresponse(), []
    while line := response.readline():
        if line.strip():
            arrivals.append(time.monotonic())
    client.close()
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    assert len(arrivals) == count
    assert min(gaps) > 0.1, gaps


def test_expect_continue(served: Served) -> None:
    """A client that waits for 100 before its body gets one, and the program the whole body."""
    body = os.urandom(300_000)
    with connection(served) as sock:
        sock.sendall(served.head(NODE, "POST /count", f"Content-Length: {len(body)}", "Expect: 100-continue", "Connection: close"))
        assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        sock.sendall(body)
        seen = read_until(sock, b"\0")
    assert seen.startswith(b"HTTP/1.1 200 ")
    assert hashlib.sha256(body).hexdigest().encode() in seen


def test_large_headers(served: Served) -> None:
    """A header of 60 KiB passes each way; one beyond 64 KiB is answered with 431, or with 502 when it is the program's."""
    value = "v" * 60_000
    seen = call(served.server.url, "GET", "/x", headers=served.to(NODE, X_Large=value)).json()
    assert value in seen["headers"]
    assert len(call(served.server.url, "GET", "/large?size=60000", headers=served.to(NODE)).headers["X-Large"]) == 60_000
    refused = call(served.server.url, "GET", "/x", headers=served.to(NODE, X_Large="v" * 70_000))
    assert (refused.status, refused.json()["code"]) == (431, 431)
    assert call(served.server.url, "GET", "/large?size=70000", headers=served.to(NODE)).status == 502


def test_range(served: Served) -> None:
    """A range of a file is asked for and given."""
    answer = call(served.server.url, "GET", "/range", headers=served.to(NODE, Range="bytes=3-6"))
    assert (answer.status, answer.headers["Content-Range"], answer.body) == (206, "bytes 3-6/1000", b"defg")


def test_trailers_and_hints_do_no_harm(served: Served) -> None:
    """Trailers and early hints are not passed on; the answers with them are whole and the connection goes on."""
    client = http.client.HTTPConnection(served.server.url.removeprefix("http://"), timeout=20)
    for target, body in (("/trailers", b"body"), ("/early", b"after hints"), ("/trailers", b"body")):
        client.request("GET", target, headers=served.to(NODE))
        response = client.getresponse()
        assert (response.status, response.read()) == (200, body)
    client.close()
    with connection(served) as sock:
        chunks = b"4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n"
        sock.sendall(served.head(NODE, "POST /count", "Transfer-Encoding: chunked", "Trailer: X-Sum", "Connection: close") + chunks)
        assert hashlib.sha256(b"body").hexdigest().encode() in read_until(sock, b"\0")


def test_preflight_reaches_the_program(served: Served) -> None:
    """A browser's question about another origin is the program's to answer."""
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "PUT"}
    answer = call(served.server.url, "OPTIONS", "/cors", headers={**served.to(NODE), **asked})
    allowed = [answer.headers[f"Access-Control-Allow-{name}"] for name in ("Origin", "Headers")]
    assert (answer.status, allowed) == (204, ["https://app.example", "x-mine"])


@pytest.mark.parametrize(
    ("port", "path"), [(49983, "/metrics"), (49983, "/process.Process/Start"), (49999, "/execute"), (49999, "/contexts")]
)
def test_preflight_of_the_agent(served: Served, port: int, path: str) -> None:
    """The agent answers browsers of any origin, without a token beforehand, and marks its refusals so that scripts can read them."""
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-access-token"}
    answer = call(served.server.url, "OPTIONS", path, headers={**served.to(port), **asked})
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, "*")
    assert answer.headers["Access-Control-Allow-Headers"] == "x-access-token"
    if path != "/execute":
        marked = call(served.server.url, "GET", path, headers={**served.to(port), "Origin": "https://app.example"})
        assert marked.headers["Access-Control-Allow-Origin"] == "*"


async def test_websockets(served: Served) -> None:
    """The websockets library on both ends: subprotocol, text, 4 MiB binary, ping, and the program's close code."""
    url = served.server.url.replace("http", "ws") + "/chat?x=1"
    async with connect(url, additional_headers=served.to(WEBSOCKETS), subprotocols=["chat"], max_size=None) as client:  # type: ignore[list-item]  # a plain string will do
        assert client.subprotocol == "chat"
        data = os.urandom(4 << 20)
        for message in ("hällo", data):
            await client.send(message)
            assert await client.recv() == message
        await asyncio.wait_for(await client.ping(), 5)
        await client.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4321, "because")


def test_flask(served: Served) -> None:
    """Flask sees the form, the host and scheme that the client used, and the user of basic authentication; it redirects to its slash."""
    headers = served.to(FLASK, Host="8005-x.sbx.test", X_Forwarded_Proto="https", Content_Type="application/x-www-form-urlencoded")
    headers["Authorization"] = "Basic cm9vdDo="
    answer = call(served.server.url, "POST", "/form/", body=b"a=1&b=%C3%A9", headers=headers).json()
    assert (answer["form"], answer["user"]) == ({"a": "1", "b": "é"}, "root")
    assert answer["url"] == "http://8005-x.sbx.test/form/"
    moved = call(served.server.url, "GET", "/form", headers=served.to(FLASK, Host="8005-x.sbx.test"))
    assert (moved.status, moved.headers["Location"]) == (308, "http://8005-x.sbx.test/form/")


def _peak_mib(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@pytest.mark.slow
def test_large_bodies_in_flat_memory(served: Served) -> None:
    """512 MiB up and 512 MiB down leave the api process's peak memory where it was, within 32 MiB."""
    pid, size = served.server.child("api"), 512 << 20
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = _peak_mib(pid)
    with connection(served) as sock:
        sock.settimeout(120)
        sock.sendall(served.head(NODE, "POST /count", f"Content-Length: {size}", "Connection: close"))
        block = b"u" * (1 << 20)
        for _ in range(size >> 20):
            sock.sendall(block)
        assert f'"size":{size}'.encode() in read_until(sock, b"\0")
    with connection(served) as sock:
        sock.settimeout(120)
        sock.sendall(served.head(NODE, f"GET /flood?size={size}", "Connection: close"))
        received = 0
        while part := sock.recv(1 << 20):
            received += len(part)
    assert received > size
    assert _peak_mib(pid) - before < 32


def test_half_closed_clients(served: Served) -> None:
    """A client that ends its side counts as gone: its connection ends soon, and nothing is left of it in the api process."""
    descriptors = Path(f"/proc/{served.server.child('api')}/fd")
    call(served.server.url, "GET", "/", headers=served.to(NODE))
    before = len(list(descriptors.iterdir()))
    for request in (b"", b"GET / HT", served.head(NODE, "GET /events"), served.head(NODE, "POST /count", "Content-Length: 100") + b"half"):
        with connection(served) as sock:
            sock.sendall(request)
            time.sleep(0.05)
            sock.shutdown(socket.SHUT_WR)
            began = time.monotonic()
            read_until(sock, b"\0")
            assert time.monotonic() - began < 3
    deadline = time.monotonic() + 5
    while len(list(descriptors.iterdir())) > before + 2:
        assert time.monotonic() < deadline, "descriptors are left"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad header\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(400)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"\x00\xff\xfe\r\n\r\n",
    ],
)
def test_malformed_requests(served: Served, request_bytes: bytes) -> None:
    """Data that is not HTTP gets 400 in the shape of all errors, and the server closes the connection."""
    with connection(served) as sock:
        sock.sendall(request_bytes)
        seen = read_until(sock, b"\0")
    head, _, body = seen.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 400 ", head), seen
    assert b"application/json" in head
    assert json.loads(body)["code"] == 400
    assert json.loads(body)["message"].startswith("the request is not valid HTTP")
