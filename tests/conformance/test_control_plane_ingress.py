"""The ingress over real connections: what passes through untouched, and what it answers when a sandbox cannot."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import socket
import time
from collections.abc import Iterator

import pytest
from aiohttp import web

from cloister.model.sandbox import EndReason
from cloister.nodewire.requests import Kill
from framework.control_plane import ControlPlane
from framework.http import Answer, call
from framework.requests import PORT, ask, create, echo, sandbox, to

pytestmark = pytest.mark.root


@contextlib.contextmanager
def raw(plane: ControlPlane, head: str) -> Iterator[socket.socket]:
    """A connection on which ``head`` has been sent."""
    with socket.create_connection(("127.0.0.1", int(plane.url.rpartition(":")[2])), timeout=10) as sock:
        sock.sendall(head.encode("latin-1"))
        yield sock


def read_all(sock: socket.socket) -> bytes:
    """All bytes until the end of the connection; a reset counts as the end."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_three_answers(control_plane: ControlPlane) -> None:
    """A closed port, an ended sandbox and an unknown id are told apart, in the bodies that SDKs know."""
    sandbox_id, _ = sandbox(control_plane)
    closed = call(control_plane.url, "GET", "/", headers=to(sandbox_id, 4444))
    ask(control_plane, "DELETE", f"/sandboxes/{sandbox_id}")
    ended = call(control_plane.url, "GET", "/", headers=to(sandbox_id))
    unknown = call(control_plane.url, "GET", "/", headers=to("c" * 20))
    assert (closed.status, ended.status, unknown.status) == (502, 502, 502)
    assert closed.json() == {"sandboxId": sandbox_id, "message": "The sandbox is running but port is not open", "port": 4444, "code": 502}
    gone = {"message": "The sandbox was not found", "code": 502}
    assert unknown.json() == {"sandboxId": "c" * 20, "reason": "is not known to this server, or is paused and the request does not have its token", **gone}
    assert ended.json() == {"sandboxId": sandbox_id, "reason": "was killed", **gone}


def test_browsers_get_a_page(control_plane: ControlPlane) -> None:
    """A browser that navigates gets HTML, with nothing of the request in it unescaped; its scripts get JSON."""
    accept = "text/html,application/xhtml+xml"
    page = call(control_plane.url, "GET", "/", headers=to("c" * 20, Accept=accept))
    assert page.headers["Content-Type"].startswith("text/html")
    assert call(control_plane.url, "GET", "/", headers=to("c" * 20, Accept=accept, Sec_Fetch_Mode="cors")).json()["code"] == 502


@pytest.mark.parametrize(
    "headers", [{"E2b-Sandbox-Id": "A!"}, {"E2b-Sandbox-Id": "a"}, to("a" * 20, 0), to("a" * 20, 65536), {"Host": "99999-abc.x"}]
)
def test_impossible_addresses(control_plane: ControlPlane, headers: dict[str, str]) -> None:
    """An address that cannot be is 400."""
    assert call(control_plane.url, "GET", "/", headers=headers).status == 400


@pytest.mark.parametrize("host", ["{port}-{id}.sbx.test", "{port}-{id}-cloister.sbx.test:8443", "{port}-{id}.localhost"])
def test_addressing_by_host(control_plane: ControlPlane, host: str) -> None:
    """The first label of the host addresses a port, and the host reaches the program as it was."""
    sandbox_id, inside = sandbox(control_plane)
    control_plane.run(lambda: inside.serve(PORT, echo))
    name = host.format(port=PORT, id=sandbox_id)
    seen = call(control_plane.url, "GET", "/x", headers={"Host": name}).json()
    assert ["Host", name] in seen["headers"]


@pytest.mark.parametrize("target", ["/a%2Fb/../c//d?x=%20+&y", "/?", "/%zz", "/a;b=c?#frag", "http://other/abs?q"])
def test_targets_pass_untouched(control_plane: ControlPlane, target: str) -> None:
    """Path and query reach the program byte for byte (of an absolute target, its path)."""
    sandbox_id, inside = sandbox(control_plane)
    seen: list[bytes] = []

    async def peek(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readline())
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    control_plane.run(lambda: inside.serve_raw(PORT, peek))
    with raw(
        control_plane,
        f"GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nE2b-Sandbox-Id: {sandbox_id}\r\nE2b-Sandbox-Port: {PORT}\r\n\r\n",
    ) as sock:
        read_all(sock)
    assert seen == [f"GET {target.removeprefix('http://other')} HTTP/1.1\r\n".encode("latin-1")]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_methods_headers_and_bodies(control_plane: ControlPlane, method: str) -> None:
    """Method, headers (repeated ones too) and body arrive; hop-by-hop headers do not; the answer's headers come back."""
    sandbox_id, inside = sandbox(control_plane)
    control_plane.run(lambda: inside.serve(PORT, echo))
    body = b"\0\xff" * 1000
    answer = call(
        control_plane.url,
        method,
        "/",
        body=body,
        headers=to(sandbox_id, X_One="1", Keep_Alive="5", Cookie="c=d", Connection="x-hop, close", X_Hop="1"),
    )
    seen = answer.json()
    names = {name.lower() for name, _ in seen["headers"]}
    assert (seen["method"], seen["sha"]) == (method, hashlib.sha256(body).hexdigest())
    assert {"x-one", "cookie", "x-forwarded-for", "x-forwarded-proto", "e2b-sandbox-id"} <= names
    assert not {"keep-alive", "x-hop", "accept-encoding-added", "user-agent"} & names - {"accept-encoding"}
    assert (answer.headers["X-Seen"], answer.headers["Set-Cookie"]) == ("yes", "a=b")
    again = call(control_plane.url, "GET", "/", headers=to(sandbox_id)).json()
    assert "cookie" not in {name.lower() for name, _ in again["headers"]}, "the ingress kept a cookie"


def test_head_and_empty_answers(control_plane: ControlPlane) -> None:
    """HEAD keeps the length it is told; 204, 304 and empty answers end at once; redirects are not followed."""
    sandbox_id, inside = sandbox(control_plane)

    async def handle(request: web.Request) -> web.Response:
        status = int(request.query.get("status", 200))
        headers = {"Location": "/elsewhere"} if status == 302 else {}
        return web.Response(status=status, headers=headers, body=b"12345" if status == 200 else None)

    control_plane.run(lambda: inside.serve(PORT, handle))
    head = call(control_plane.url, "HEAD", "/", headers=to(sandbox_id))
    assert (head.headers["Content-Length"], head.body) == ("5", b"")
    for status in (204, 304, 302, 404, 500):
        answer = call(control_plane.url, "GET", f"/?status={status}", headers=to(sandbox_id))
        assert (answer.status, answer.body) == (status, b"")
    assert call(control_plane.url, "GET", "/?status=302", headers=to(sandbox_id)).headers["Location"] == "/elsewhere"


def test_nothing_is_added_to_an_answer(control_plane: ControlPlane) -> None:
    """An answer without Server, Date and Content-Type comes back without; compressed bytes stay compressed."""
    sandbox_id, inside = sandbox(control_plane)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 Fine\r\nContent-Encoding: gzip\r\nX-Odd: \xe9\r\nContent-Length: 3\r\n\r\nabc")
        writer.close()

    control_plane.run(lambda: inside.serve_raw(PORT, handle))
    with raw(control_plane, f"GET / HTTP/1.1\r\nHost: {PORT}-{sandbox_id}.localhost\r\nConnection: close\r\n\r\n") as sock:
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    assert body == b"abc"
    assert head.startswith(b"HTTP/1.1 200 Fine\r\n")
    names = {line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
    assert names == {b"content-encoding", b"x-odd", b"content-length", b"connection"}


def test_large_headers(control_plane: ControlPlane) -> None:
    """Headers of 60 KiB pass both ways; larger ones are refused, not cut."""
    sandbox_id, inside = sandbox(control_plane)

    async def handle(request: web.Request) -> web.Response:
        return web.Response(headers={"X-Back": "y" * int(request.query["back"])}, text=str(len(request.headers["X-Big"])))

    control_plane.run(lambda: inside.serve(PORT, handle))
    answer = call(control_plane.url, "GET", "/?back=60000", headers=to(sandbox_id, X_Big="x" * 60_000))
    assert (answer.body, len(answer.headers["X-Back"])) == (b"60000", 60_000)
    assert call(control_plane.url, "GET", "/?back=1", headers=to(sandbox_id, X_Big="x" * 70_000)).status == 431
    refused = call(control_plane.url, "GET", "/?back=70000", headers=to(sandbox_id, X_Big="x"))
    assert (refused.status, refused.json()["code"]) == (502, 502)


def test_expect_continue(control_plane: ControlPlane) -> None:
    """A client that waits for 100 Continue gets it, then its answer."""
    sandbox_id, inside = sandbox(control_plane)
    control_plane.run(lambda: inside.serve(PORT, echo))
    head = f"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n{_lines(to(sandbox_id))}\r\n"
    with raw(control_plane, head) as sock:
        assert sock.recv(100).startswith(b"HTTP/1.1 100")
        sock.sendall(b"abc")
        assert b'"length": 3' in read_all(sock)


def _lines(headers: dict[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def test_streams_pass_as_they_come(control_plane: ControlPlane) -> None:
    """Each chunk is passed on when it comes, in both directions at once."""
    sandbox_id, inside = sandbox(control_plane)

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for chunk in request.content.iter_any():
            await response.write(chunk.upper())
        await response.write_eof()
        return response

    control_plane.run(lambda: inside.serve(PORT, handle))
    head = f"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n{_lines(to(sandbox_id))}\r\n"
    with raw(control_plane, head) as sock:
        for word in (b"one", b"two"):
            sock.sendall(b"3\r\n" + word + b"\r\n")
            seen = b""
            while word.upper() not in seen:
                seen += sock.recv(65536)
        sock.sendall(b"0\r\n\r\n")
        seen = b""
        while b"0\r\n\r\n" not in seen:
            seen += sock.recv(65536)


def test_large_bodies_with_flat_memory(control_plane: ControlPlane) -> None:
    """64 MiB pass each way, and a reader that stops is waited for, not buffered for."""
    sandbox_id, inside = sandbox(control_plane)
    size, sent = 64 << 20, [0]

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            digest = hashlib.sha256()
            async for chunk in request.content.iter_any():
                digest.update(chunk)
            return web.Response(text=digest.hexdigest())
        response = web.StreamResponse(headers={"Content-Length": str(size)})
        await response.prepare(request)
        for _ in range(size >> 16):
            await response.write(b"z" * 65536)
            sent[0] += 65536
        return response

    control_plane.run(lambda: inside.serve(PORT, handle))
    body = b"q" * size
    assert call(control_plane.url, "POST", "/", body=body, headers=to(sandbox_id)).body.decode() == hashlib.sha256(body).hexdigest()
    with raw(control_plane, f"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{_lines(to(sandbox_id))}\r\n") as sock:
        sock.recv(1000)
        time.sleep(0.7)
        assert sent[0] < 24 << 20, "the ingress buffered for a reader that stopped"
        assert len(read_all(sock)) > size - 2000
    assert sent[0] == size


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Content-Length: 100", "Connection: close"])
def test_kill_breaks_a_stream_off(control_plane: ControlPlane, framing: str) -> None:
    """Killing a sandbox breaks an answer off without an end that could be taken for the whole."""
    sandbox_id, inside = sandbox(control_plane)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        piece = b"5\r\nhello\r\n" if "chunked" in framing else b"hello"
        writer.write(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + piece)
        await asyncio.sleep(30)

    control_plane.run(lambda: inside.serve_raw(PORT, handle))
    with raw(control_plane, f"GET / HTTP/1.1\r\nHost: h\r\n{_lines(to(sandbox_id))}\r\n") as sock:
        seen = b""
        while b"hello" not in seen:
            seen += sock.recv(1000)
        began = time.monotonic()
        assert ask(control_plane, "DELETE", f"/sandboxes/{sandbox_id}").status == 204
        assert b"0\r\n\r\n" not in read_all(sock)
        assert time.monotonic() - began < 10
    assert call(control_plane.url, "GET", "/health", headers=to(sandbox_id, 49983)).json()["reason"] == "was killed"


def test_kill_before_an_answer(control_plane: ControlPlane) -> None:
    """A request that waits for its first byte when its sandbox is killed is told so."""
    sandbox_id, inside = sandbox(control_plane)

    async def handle(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        control_plane.loop.call_later(0.1, lambda: asyncio.ensure_future(control_plane.node.kill(Kill(sandbox_id, EndReason.CRASHED))))
        await asyncio.sleep(30)

    control_plane.run(lambda: inside.serve_raw(PORT, handle))
    answer = call(control_plane.url, "GET", "/", headers=to(sandbox_id))
    assert (answer.status, answer.json()["reason"]) == (502, "crashed")


def test_a_client_that_leaves_is_noticed(control_plane: ControlPlane) -> None:
    """When the client goes away, the program's connection is closed at once, idle streams included."""
    sandbox_id, inside = sandbox(control_plane)
    left: list[float] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        try:
            await asyncio.sleep(30)
        finally:
            left.append(time.monotonic())
        return response

    control_plane.run(lambda: inside.serve(PORT, handle))
    with raw(control_plane, f"GET / HTTP/1.1\r\nHost: h\r\n{_lines(to(sandbox_id))}\r\n") as sock:
        while b"x\r\n" not in sock.recv(1000):
            pass
    closed = time.monotonic()
    while not left:
        assert time.monotonic() - closed < 10, "the program was not told"
        time.sleep(0.01)


def test_connections_are_kept_alive_by_port(control_plane: ControlPlane) -> None:
    """Requests in a row use one connection; each port has its own."""
    sandbox_id, inside = sandbox(control_plane)
    control_plane.run(lambda: inside.serve(PORT, echo))
    for _ in range(5):
        call(control_plane.url, "POST", "/", body=b"x", headers=to(sandbox_id))
    assert inside.dials == 1
    call(control_plane.url, "GET", "/health", headers=to(sandbox_id, 49983))
    assert inside.dials == 2


def test_a_port_that_opens_a_moment_later(control_plane: ControlPlane) -> None:
    """A program that begins to listen just after the request is reached by it."""
    sandbox_id, inside = sandbox(control_plane)

    async def later() -> None:
        await asyncio.sleep(0.2)
        await inside.serve(PORT, echo)

    control_plane.loop.call_soon_threadsafe(lambda: asyncio.ensure_future(later()))
    assert call(control_plane.url, "GET", "/", headers=to(sandbox_id)).status == 200


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nBad header\r\n\r\n"]
)
def test_programs_that_do_not_speak_http(control_plane: ControlPlane, answer: bytes) -> None:
    """A program that hangs up or answers no HTTP gives 502 with its port, and the ingress goes on."""
    sandbox_id, inside = sandbox(control_plane)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    control_plane.run(lambda: inside.serve_raw(PORT, handle))
    got = call(control_plane.url, "POST", "/", body=b"x", headers=to(sandbox_id))
    assert (got.status, got.json()["port"]) == (502, PORT)
    assert "no usable answer" in got.json()["message"]


@pytest.mark.parametrize("path", ["/init", "/init/", "/%69nit", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw"])
def test_control_routes_of_the_agent_are_closed(control_plane: ControlPlane, path: str) -> None:
    """The agent's control routes cannot be reached through the ingress, however they are written."""
    sandbox_id, inside = sandbox(control_plane)
    assert call(control_plane.url, "POST", path, headers=to(sandbox_id, 49983)).status == 404
    assert inside.dials == 0


def test_tokens_of_the_data_plane(control_plane: ControlPlane) -> None:
    """Private traffic needs its token on all ports but the agent's; running code in a secure sandbox needs the access token (I5)."""
    created = create(control_plane, network={"allowPublicTraffic": False})
    sandbox_id, token = created["sandboxID"], created["trafficAccessToken"]
    inside = control_plane.node.find(sandbox_id)
    control_plane.run(lambda: inside.serve(PORT, echo))
    assert call(control_plane.url, "GET", "/", headers=to(sandbox_id)).status == 403
    assert call(control_plane.url, "GET", "/", headers=to(sandbox_id, E2b_Traffic_Access_Token="x")).status == 403
    passed = call(control_plane.url, "GET", "/", headers=to(sandbox_id, E2b_Traffic_Access_Token=token))
    assert passed.status == 200
    assert token not in passed.body.decode(), "the token went into the sandbox"
    assert call(control_plane.url, "GET", "/health", headers=to(sandbox_id, 49983)).status == 204
    public_id, _ = sandbox(control_plane)
    assert call(control_plane.url, "POST", "/execute", body={"code": "x"}, headers=to(public_id, 49999)).status == 401
    assert call(control_plane.url, "POST", "/execute", body={"code": "x"}, headers=to(public_id, 49999, X_Access_Token="y")).status == 401
    insecure = create(control_plane, "/sandboxes")["sandboxID"]
    assert call(control_plane.url, "POST", "/execute", body={"code": "x"}, headers=to(insecure, 49999)).status == 200


def test_without_a_supervisor(control_plane: ControlPlane) -> None:
    """With the supervisor away, open connections go on, and a port never reached before is 503 after a while."""
    sandbox_id, inside = sandbox(control_plane)
    control_plane.run(lambda: inside.serve(PORT, echo))
    assert call(control_plane.url, "GET", "/", headers=to(sandbox_id)).status == 200
    control_plane.run(control_plane.node.die)
    assert call(control_plane.url, "GET", "/", headers=to(sandbox_id)).status == 200
    answer = call(control_plane.url, "GET", "/health", headers=to(sandbox_id, 49983))
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


def test_pipelined_request_to_another_sandbox_is_checked(control_plane: ControlPlane) -> None:
    """Each request of one client connection is addressed and checked by itself."""
    sandbox_id, inside = sandbox(control_plane)
    control_plane.run(lambda: inside.serve(PORT, echo))
    first = f"GET /1 HTTP/1.1\r\nHost: h\r\n{_lines(to(sandbox_id))}\r\n"
    second = f"GET /2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{_lines(to('d' * 20))}\r\n"
    with raw(control_plane, first + second) as sock:
        seen = read_all(sock)
    assert b'"/1"' in seen
    assert b"The sandbox was not found" in seen


def test_answers_are_not_shared(control_plane: ControlPlane) -> None:
    """Many requests at once to two sandboxes each get their own sandbox's answer."""
    from concurrent.futures import ThreadPoolExecutor

    ids = []
    for _ in range(2):
        sandbox_id, inside = sandbox(control_plane)
        ids.append(sandbox_id)

        async def handle(_request: web.Request, mine: str = sandbox_id) -> web.Response:
            await asyncio.sleep(0.005)
            return web.Response(text=mine)

        control_plane.run(functools.partial(inside.serve, PORT, handle))

    def one(number: int) -> tuple[str, Answer]:
        return ids[number % 2], call(control_plane.url, "GET", "/", headers=to(ids[number % 2]))

    with ThreadPoolExecutor(16) as pool:
        for expected, answer in pool.map(one, range(200)):
            assert answer.body.decode() == expected
