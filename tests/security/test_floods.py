"""An unauthenticated client can make the server keep little data, and only briefly. Other clients are served meanwhile."""

from __future__ import annotations

import contextlib
import os
import resource
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from e2b import RateLimitException
from e2b_code_interpreter import Sandbox

from cloister.tls.authority import ServerNames, ca_file, create_authority
from cloister.tls.context import ReplaceableContext
from framework.clients import connect, connections, rest_of, rss_mib, status_of
from framework.control_plane import ControlPlane, running_control_plane
from framework.http import Answer, call
from framework.requests import PORT, ask, create, sandbox, to
from framework.server import Server, running_server
from framework.waiting import eventually

HEAD = b"GET /health HTTP/1.1\r\nHost: h\r\n"
MIB = 1 << 20


@pytest.fixture
def plane(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """A control plane with the settings that are the test's parameter."""
    with running_control_plane(tmp_path, **request.param) as running:
        yield running


def settings(**values: object) -> pytest.MarkDecorator:
    """Run a test on a control plane with these settings."""
    return pytest.mark.parametrize("plane", [values], indirect=True, ids=[""])


def is_closed(sock: object) -> bool:
    """Whether the server has ended a connection on which nothing is to come."""
    sock.settimeout(0.01)  # type: ignore[attr-defined]  # a socket, typed as object
    try:
        return sock.recv(1) == b""  # type: ignore[attr-defined,no-any-return]  # a socket, typed as object
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@settings(head_timeout_s=1.0)
def test_client_cannot_stay_without_a_whole_head(plane: ControlPlane) -> None:
    """A silent connection is closed, and a slow head gets 408. An idle connection between requests stays."""
    with connect(plane.url) as silent, connect(plane.url) as slow, connect(plane.url) as idle:
        idle.sendall(HEAD + b"\r\n")
        assert status_of(idle.recv(4096)) == 200
        slow.sendall(HEAD + b"X-A: ")
        eventually(lambda: is_closed(silent))
        seen = b""
        with contextlib.suppress(ConnectionError):
            while not seen:
                slow.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    seen = slow.recv(4096)
                slow.sendall(b"a")
        assert status_of(seen) == 408
        assert is_closed(slow) or rest_of(slow) == b""
        idle.settimeout(30)
        idle.sendall(HEAD + b"\r\n")
        assert status_of(idle.recv(4096)) == 200
        idle.sendall(HEAD)  # the second head of a connection has the same time
        assert status_of(rest_of(idle)) == 408


@settings(head_timeout_s=1.0)
def test_client_cannot_hide_a_slow_head_behind_a_request(plane: ControlPlane) -> None:
    """A head that begins while another request is answered has its time too."""
    sandbox_id, inside = sandbox(plane)

    async def serve(_request: web.Request) -> web.Response:
        return web.Response(text="inside")

    plane.run(lambda: inside.serve(PORT, serve))
    lines = "".join(f"{name}: {value}\r\n" for name, value in to(sandbox_id).items()).encode()
    with connect(plane.url) as sock:
        sock.sendall(HEAD + lines + b"\r\n" + HEAD)
        answers = rest_of(sock)
    assert answers.count(b"HTTP/1.1 200 ") == 1
    assert answers.count(b" 408 ") == 1


@settings(body_timeout_s=1.0, stall_timeout_s=1.0)
def test_client_cannot_stay_by_a_slow_body(plane: ControlPlane) -> None:
    """The body of an API request has a total time limit. Uploads and requests to sandboxes may only pause briefly."""
    sandbox_id, inside = sandbox(plane)

    async def read(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    plane.run(lambda: inside.serve(PORT, read))
    key = f"X-API-KEY: {plane.api_key}"
    sizes = ("Content-Length: 100", "Content-Length: 1000000", "Transfer-Encoding: chunked")
    address = "\r\n".join(f"{name}: {value}" for name, value in to(sandbox_id).items())
    with contextlib.ExitStack() as stack:
        socks = {}
        for lines in [f"{key}\r\n{size}" for size in sizes] + [f"{address}\r\n{size}" for size in sizes]:
            socks[lines] = sock = stack.enter_context(connect(plane.url))
            sock.sendall(f"POST /v2/sandboxes HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n".encode())
            sock.sendall(b"1\r\n{\r\n" if "chunked" in lines else b"{")
        for lines, sock in socks.items():
            answer = rest_of(sock)
            assert not answer or status_of(answer) == 408, (lines, answer)
    assert len(plane.node.sandboxes) == 1


@settings(stall_timeout_s=1.0)
def test_client_cannot_keep_room_by_a_slow_upload(plane: ControlPlane) -> None:
    """An upload that stops is ended, and leaves nothing behind."""
    ask(plane, "POST", "/v3/templates", {"name": "mine"})
    link = ask(plane, "GET", f"/templates/mine/files/{'0' * 64}").json()["url"]
    with connect(plane.url) as sock:
        sock.sendall(f"PUT {link.removeprefix(plane.url)} HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\n\r\n".encode() + b"x" * 1000)
        assert status_of(rest_of(sock)) == 408
    assert not [path for path in (plane.settings.data_dir / "api" / "uploads").rglob("*") if path.is_file() and path.stat().st_size > 500]


@settings()
def test_client_cannot_send_a_head_without_bound(plane: ControlPlane) -> None:
    """A head above 64 KiB gets 431: complete or not, in one header, in many, in the request line, or after an answer."""
    for head in (
        HEAD + b"X: " + b"a" * 66_000 + b"\r\n\r\n",
        HEAD + b"".join(b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(70)) + b"\r\n",
        HEAD + b"".join(b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(70)),
        b"GET /" + b"a" * 66_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        HEAD + b"\r\n" + HEAD + b"".join(b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(70)) + b"\r\n",
    ):
        with connect(plane.url) as sock:
            sock.sendall(head)
            answer = rest_of(sock)
            assert status_of(answer[answer.rindex(b"HTTP/1.") :]) == 431, answer
            assert b'"code": 431' in answer
    with connect(plane.url) as sock:
        sock.sendall(HEAD + b"X: " + b"a" * 60_000 + b"\r\n\r\n")
        assert status_of(sock.recv(4096)) == 200


@settings()
@pytest.mark.parametrize("tail", ["trailers", "extensions"])
def test_client_cannot_flood_behind_a_chunked_body(plane: ControlPlane, tail: str) -> None:
    """Trailers and chunk extensions without end are broken off; a body in tiny chunks is not."""
    head = f"POST /v2/sandboxes HTTP/1.1\r\nHost: h\r\nX-API-KEY: {plane.api_key}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    part = b"X: " + b"a" * 1000 + b"\r\n" if tail == "trailers" else b"a" * 1000
    with connect(plane.url) as sock:
        sock.sendall(head + (b"1\r\n{\r\n0\r\n" if tail == "trailers" else b"1;a="))
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 8 * MIB:
                sock.sendall(part)
                sent += len(part)
        assert sent < 8 * MIB
    body = b'{"templateID": "base", "metadata": {"a": "%s"}}' % (b"b" * 20_000)
    with connect(plane.url) as sock:
        sock.sendall(head)
        for octet in body:
            sock.sendall(b"1\r\n%c\r\n" % octet)
        sock.sendall(b"0\r\n\r\n")
        assert status_of(sock.recv(4096)) == 201


@settings()
def test_heads_of_many_connections_cannot_add_up(plane: ControlPlane) -> None:
    """Heads that are not whole take 32 MiB of all connections together; those that have waited longest give way."""
    with connections(plane.url, 600, HEAD + b"X: " + b"a" * 63_000) as made:
        assert call(plane.url, "GET", "/health").status == 200
        assert sum(not is_closed(sock) for sock in made) * 63_000 <= 32 * MIB


@settings(head_timeout_s=1.0)
def test_client_cannot_stay_in_a_tls_handshake(plane: ControlPlane, tmp_path: Path) -> None:
    """A client that does not finish its handshake is closed, and another one is served by TLS meanwhile."""
    names = ServerNames("sbx.test", "127.0.0.1")
    context = ReplaceableContext(create_authority(tmp_path / "tls", names).issue(names)).listening
    url = plane.listen_tls(context)
    trusting = ssl.create_default_context(cafile=str(ca_file(tmp_path / "tls")))
    with connect(url) as silent, connect(url) as half:
        half.sendall(b"\x16\x03\x01\x02\x00")
        with trusting.wrap_socket(connect(url), server_hostname="127.0.0.1") as client:
            client.sendall(HEAD + b"\r\n")
            assert status_of(client.recv(4096)) == 200
        assert rest_of(silent) == rest_of(half) == b""


@settings()
def test_tls_handshakes_cannot_cost_much_memory(plane: ControlPlane, tmp_path: Path) -> None:
    """A handshake that does not end costs the server some 90 KiB; with asyncio's own buffers it was 290."""
    names = ServerNames("sbx.test", "127.0.0.1")
    url = plane.listen_tls(ReplaceableContext(create_authority(tmp_path / "tls", names).issue(names)).listening)
    before_mib = rss_mib(os.getpid())  # the server is in this process; the clients are bare sockets
    with connections(url, 400, b"\x16\x03\x01\x02\x00"):
        assert call(plane.url, "GET", "/health").status == 200
        assert rss_mib(os.getpid()) - before_mib < 400 * 150 / 1024


@settings(max_connections=50)
def test_clients_cannot_take_all_connections(plane: ControlPlane) -> None:
    """At the limit of half-open connections, a new client is served at once. The connections that waited longest are closed."""
    with connections(plane.url, 200, HEAD) as made:
        for _ in range(5):
            assert call(plane.url, "GET", "/health").status == 200
        assert sum(not is_closed(sock) for sock in made) <= 50
        assert is_closed(made[0])


@settings(max_connections=10)
def test_requests_under_way_cannot_be_displaced(plane: ControlPlane) -> None:
    """Connections on which a request is served are not closed for new ones, which are refused with the reason."""
    sandbox_id, inside = sandbox(plane)

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        await request.content.read()
        await response.write(b"last")
        return response

    plane.run(lambda: inside.serve(PORT, stream))
    lines = "".join(f"{name}: {value}\r\n" for name, value in to(sandbox_id).items()).encode()
    with connections(plane.url, 10, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100001\r\n" + lines + b"\r\nx") as made:
        for sock in made:
            eventually(lambda sock=sock: b"first" in sock.recv(4096))  # type: ignore[misc]  # mypy infers no type for a default of a lambda
        with connect(plane.url) as sock:
            answer = rest_of(sock)
        assert status_of(answer) == 503
        assert b"as many connections" in answer
        made[0].sendall(b"x" * 100_000)
        assert b"last" in rest_of_answer(made[0])


def rest_of_answer(sock: object) -> bytes:
    """All bytes until the end of a chunked answer."""
    seen = b""
    while not seen.endswith(b"0\r\n\r\n"):
        seen += sock.recv(4096)  # type: ignore[attr-defined]  # a socket, typed as object
    return seen


@settings(max_connections_per_peer=20, trusted_proxies=())
def test_peer_cannot_take_the_connections_of_others(plane: ControlPlane) -> None:
    """One address has at most its share, whatever it does; another one is not concerned."""
    sandbox_id, inside = sandbox(plane)

    async def never(request: web.Request) -> web.Response:
        began.append(1)
        return web.Response(body=await request.content.read())

    began: list[int] = []
    plane.run(lambda: inside.serve(PORT, never))
    lines = "".join(f"{name}: {value}\r\n" for name, value in to(sandbox_id).items()).encode()
    with connections(plane.url, 20, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100001\r\n" + lines + b"\r\nx"):
        eventually(lambda: len(began) == 20)
        with connect(plane.url) as sock:
            assert status_of(rest_of(sock)) == 429
        with connect(plane.url, source="127.0.0.2") as sock:
            sock.sendall(HEAD + b"\r\n")
            assert status_of(sock.recv(4096)) == 200


@settings(stall_timeout_s=1.0)
def test_client_cannot_stay_by_reading_nothing(plane: ControlPlane) -> None:
    """A client that reads nothing of an answer is disconnected. A slow reader and an idle stream are not."""
    sandbox_id, inside = sandbox(plane)

    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while request.path != "/quiet":
                await response.write(b"z" * 65536)
            await request.content.read()
        finally:
            ended.append(request.path)
        return response

    ended: list[str] = []
    plane.run(lambda: inside.serve(PORT, flood))
    lines = "".join(f"{name}: {value}\r\n" for name, value in to(sandbox_id).items()).encode()
    with contextlib.ExitStack() as stack:
        socks = {}
        for path in ("/unread", "/slow", "/quiet"):
            socks[path] = stack.enter_context(connect(plane.url, receive_bytes=4096 if path == "/unread" else None))
            socks[path].sendall(
                b"POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n" % path.encode() + lines + b"\r\n" + b"x" * (9 * (path != "/quiet"))
            )
        until = time.monotonic() + 20
        while "/unread" not in ended:
            assert time.monotonic() < until
            assert socks["/slow"].recv(65536)
            time.sleep(0.05)
        assert ended == ["/unread"]


@pytest.mark.alone
def test_flood_cannot_grow_the_server_nor_slow_others(stock_templates: None) -> None:
    """While 3,000 half-open connections and a flood of headers hang, an SDK client creates and runs at its usual speed, in bounded memory."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with running_server("--max-connections", "1000", "--max-connections-per-peer", "1000") as server:
        pid = server.child("api")
        before_s = typical_s(server)
        before_mib = rss_mib(pid)
        with connections(server.url, 3000, HEAD + b"X: "):
            during_s = typical_s(server)
            for _ in range(5):
                flood_with_headers(server.url)
            assert rss_mib(pid) - before_mib < 100
            with contextlib.ExitStack() as stack:
                for _ in range(700):
                    sock = stack.enter_context(connect(server.url))
                    with contextlib.suppress(ConnectionError):
                        sock.sendall(HEAD + b"X: " + b"a" * 63_000)
                assert call(server.url, "GET", "/health").status == 200
                assert rss_mib(pid) - before_mib < 200
        assert server.child("api") == pid
        assert during_s < 3 * before_s + 0.2, (before_s, during_s)


def typical_s(server: Server) -> float:
    """The median time of creating a sandbox and running in it."""

    def once() -> float:
        began = time.monotonic()
        made = Sandbox.create(timeout=60, **server.sdk)
        try:
            assert made.run_code("1 + 1").text == "2"
            return time.monotonic() - began
        finally:
            made.kill()

    return statistics.median(once() for _ in range(3))


def flood_with_headers(url: str) -> None:
    """Send headers of 64 KiB until the server ends the connection, which it must."""
    with connect(url) as sock:
        sock.sendall(HEAD)
        with contextlib.suppress(ConnectionError):
            for number in range(2000):
                sock.sendall(b"X-%d: %s\r\n" % (number, b"a" * 65_000))
            pytest.fail("130 MB of headers were taken")


# ---- wrong credentials ----


def wrong_key(plane: ControlPlane, **more: str) -> Answer:
    """A request with a key that is none."""
    return call(plane.url, "GET", "/sandboxes", headers={"X-API-KEY": "e2b_" + "0" * 40, **more})


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


@settings(max_failed_keys=5)
def test_client_cannot_try_keys_at_full_speed(plane: ControlPlane) -> None:
    """After some wrong keys each further one waits and is told so, while the right key of the same address is answered at once."""
    assert [wrong_key(plane).status for _ in range(5)] == [401] * 5
    slowed = seconds(lambda: wrong_key(plane))
    answer = wrong_key(plane)
    assert (answer.status, answer.headers["Retry-After"], answer.headers["Should-Retry"]) == (429, "10", "false")
    assert slowed > 0.3
    right = [seconds(lambda: create(plane)) for _ in range(5)]
    assert statistics.median(right) < slowed / 3
    with pytest.raises(RateLimitException):
        Sandbox.list(**{**plane.sdk, "api_key": "e2b_" + "0" * 40}).next_items()


@settings(max_failed_keys=4)
def test_client_cannot_try_tokens_at_full_speed(plane: ControlPlane) -> None:
    """Access tokens, traffic tokens, signatures and links to upload by are slowed like keys; each right one goes through."""
    made = create(plane, network={"allowPublicTraffic": False})
    sandbox_id, token = made["sandboxID"], made["trafficAccessToken"]

    async def serve(_request: web.Request) -> web.Response:
        return web.Response(text="inside")

    inside = plane.node.find(sandbox_id)
    plane.run(lambda: inside.serve(PORT, serve))
    right = to(sandbox_id, E2b_Traffic_Access_Token=token)
    attempts: tuple[tuple[str, str, dict[str, str]], ...] = (
        ("GET", "/", to(sandbox_id, E2b_Traffic_Access_Token="x" * 64)),
        ("POST", "/execute", {**to(sandbox_id, 49999, X_Access_Token="x" * 64), "E2b-Traffic-Access-Token": token}),
        ("GET", "/files?path=/x&signature=v1_x", {}),
        ("PUT", "/uploads?token=x.y", {}),
    )
    assert [call(plane.url, method, path, headers=headers).status for method, path, headers in attempts] == [403, 401, 401, 401]
    assert [call(plane.url, method, path, headers=headers).status for method, path, headers in attempts] == [429] * 4
    slowed = seconds(lambda: call(plane.url, "GET", "/", headers=attempts[0][2]))
    assert call(plane.url, "GET", "/", headers=right).body == b"inside"
    assert statistics.median(seconds(lambda: call(plane.url, "GET", "/", headers=right)) for _ in range(5)) < slowed / 3
    assert call(plane.url, "GET", "/", headers=to(sandbox_id)).status == 403  # showing nothing is no attempt


@settings()
def test_stranger_cannot_have_long_queries_parsed(plane: ControlPlane) -> None:
    """Requests without a key are not parsed if their query is longer than a valid one."""
    tail = "&a" * 20_000
    assert call(plane.url, "GET", f"/files?path=/x&signature=v1_x{tail}").status == 404
    assert call(plane.url, "GET", "/files?path=/x&signature=v1_x").status == 401
    name = "n" * 128
    ask(plane, "POST", "/v3/templates", {"name": name})
    link = ask(plane, "GET", f"/templates/{name}/files/{'0' * 64}").json()["url"].removeprefix(plane.url)
    assert call(plane.url, "PUT", link + tail, body=b"x").status == 401
    assert call(plane.url, "PUT", link, body=b"x").status == 200


@settings(max_failed_keys=2)
def test_client_cannot_have_others_slowed(plane: ControlPlane) -> None:
    """Behind a trusted proxy, failures count for the address that the proxy names last; earlier ones are the client's own words."""
    for number in range(3):
        answer = wrong_key(plane, **{"X-Forwarded-For": f"198.51.100.{number}, 203.0.113.7"})
    assert answer.status == 429
    assert wrong_key(plane, **{"X-Forwarded-For": "203.0.113.7, 203.0.113.8"}).status == 401
