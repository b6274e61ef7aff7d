"""Who may do what, on every route there is: keys of the REST API, access tokens, traffic tokens, signatures (I5)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from e2b.exceptions import InvalidArgumentException, SandboxException
from e2b.sandbox.signature import get_signature
from e2b_code_interpreter import Sandbox

from cloister.api.routes import NOT_BUILT, ROUTES
from framework.control_plane import ControlPlane
from framework.http import Answer, call
from framework.inside import python
from framework.requests import PORT, ask, create, echo, to
from framework.server import Server

pytestmark = [pytest.mark.root]
WRONG = ("", "x", "ea_wrong", "\u00e9".encode().decode("latin-1"), " ")

AGENT_ROUTES = (
    ("GET", "/metrics"),
    ("GET", "/envs"),
    ("GET", "/files?path=/etc/hostname"),
    ("HEAD", "/files?path=/etc/hostname"),
    ("POST", "/files?path=/tmp/x"),
    ("POST", "/files/compose"),
    *(("POST", f"/process.Process/{name}") for name in ("List", "Start", "Connect", "Update", "SendInput", "StreamInput", "SendSignal")),
    ("POST", "/process.Process/CloseStdin"),
    *(("POST", f"/filesystem.Filesystem/{name}") for name in ("Stat", "MakeDir", "Move", "ListDir", "Remove", "WatchDir")),
    *(("POST", f"/filesystem.Filesystem/{name}") for name in ("CreateWatcher", "GetWatcherEvents", "RemoveWatcher")),
    ("GET", "/"),
    ("GET", "/no/such/path"),
    ("GET", "//metrics"),
    ("GET", "/metrics/"),
    ("GET", "/%6detrics"),
)
INTERPRETER_ROUTES = (("GET", "/contexts"), ("POST", "/contexts"), ("POST", "/contexts/x/restart"), ("DELETE", "/contexts/x"))
PRIVATE_PORTS = (1, 80, 3000, 8080, 49982, 49984, 49999, 65535)


@pytest.fixture(scope="module")
def secure(server: Server) -> Iterator[Sandbox]:
    """A sandbox as the SDK makes it by default."""
    sandbox = Sandbox.create(timeout=900, **server.sdk)
    yield sandbox
    sandbox.kill()


@pytest.fixture(scope="module")
def private(server: Server) -> Iterator[Sandbox]:
    """A sandbox whose traffic is private."""
    sandbox = Sandbox.create(timeout=900, network={"allow_public_traffic": False}, **server.sdk)
    yield sandbox
    sandbox.kill()


def send(server: Server, method: str, path: str, headers: dict[str, str]) -> Answer:
    """A request with an empty object where a body is due."""
    return call(server.url, method, path, body={} if method == "POST" else None, headers=headers)


@pytest.mark.templates
@pytest.mark.parametrize(("method", "path"), AGENT_ROUTES)
def test_agent_routes_need_the_token(server: Server, secure: Sandbox, method: str, path: str) -> None:
    """Without the sandbox's token, with a wrong one, and with another sandbox's, no route of the agent answers."""
    headers = to(secure.sandbox_id, 49983)
    other = to(secure.sandbox_id, 49983, Authorization="Basic cm9vdDo=")
    for attempt in (headers, other, *({**headers, "X-Access-Token": token} for token in WRONG)):
        assert send(server, method, path, attempt).status == 401, attempt


@pytest.mark.templates
@pytest.mark.parametrize("token", WRONG)
def test_running_code_needs_the_token(server: Server, secure: Sandbox, token: str) -> None:
    """Code is not run without the token; contexts, for which official clients send none, refuse a wrong one."""
    headers = to(secure.sandbox_id, 49999)
    body = {"code": "open('/tmp/was-here', 'w')", "language": "python"}
    for attempt in (headers, {**headers, "X-Access-Token": token}):
        assert call(server.url, "POST", "/execute", body=body, headers=attempt).status == 401
    for method, path in INTERPRETER_ROUTES:
        assert send(server, method, path, {**headers, "X-Access-Token": token or "x"}).status == 401
    assert python(secure, "import os; print(os.path.exists('/tmp/was-here'))") == "False"


@pytest.mark.templates
def test_health_is_open_and_tokens_work(server: Server, secure: Sandbox) -> None:
    """The health route needs no token, as SDKs ask it, and the right token opens the rest."""
    headers = to(secure.sandbox_id, 49983)
    assert send(server, "GET", "/health", headers).status == 204
    token = str(secure._envd_access_token)
    assert send(server, "GET", "/metrics", {**headers, "X-Access-Token": token}).status == 200


@pytest.mark.templates
@pytest.mark.parametrize("port", PRIVATE_PORTS)
def test_private_traffic_on_every_port(server: Server, private: Sandbox, port: int) -> None:
    """With allow_public_traffic=False, no port but the agent's is reached without the traffic token, whatever the path or method."""
    headers = to(private.sandbox_id, port, X_Access_Token=str(private._envd_access_token))
    for method, path in (
        ("GET", "/"),
        ("POST", "/execute"),
        ("OPTIONS", "/execute"),
        ("GET", "/contexts"),
        ("PUT", "/a/../b"),
        ("HEAD", "/"),
    ):
        for attempt in (headers, *({**headers, "E2b-Traffic-Access-Token": token} for token in WRONG)):
            assert send(server, method, path, attempt).status == 403, (method, path)
    allowed = send(server, "GET", "/", {**headers, "E2b-Traffic-Access-Token": str(private.traffic_access_token)})
    assert allowed.status in {404, 502}


@pytest.mark.templates
def test_private_sandbox_works_by_the_sdk(private: Sandbox) -> None:
    """The SDK, which has both tokens, uses a private sandbox as any other."""
    assert private.run_code("1+1").text == "2"
    assert private.is_running()


@pytest.mark.templates
def test_signed_urls_of_the_sdk(secure: Sandbox, server: Server) -> None:
    """With E2B_SANDBOX_URL alone, an upload URL and a download URL of the SDK work in any HTTP client, and no others do."""
    upload, download = secure.upload_url("/tmp/signed"), secure.download_url("/tmp/signed", use_signature_expiration=60)
    assert upload.startswith(server.url)
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="signed"\r\n\r\nby url\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    put = call(server.url, "POST", upload.removeprefix(server.url), body=body, headers=headers)
    assert put.status == 200, put.body
    assert call(server.url, "GET", download.removeprefix(server.url)).body == b"by url"
    assert call(server.url, "GET", upload.removeprefix(server.url)).status == 401
    assert call(server.url, "GET", download.removeprefix(server.url).replace("signed", "other")).status == 401


@pytest.mark.templates
@pytest.mark.parametrize(("network", "named"), [({"https_ports": [49983]}, "network.httpsPorts")])
def test_what_the_ingress_does_not_do_is_refused(server: Server, network: dict[str, object], named: str) -> None:
    """Options of the ingress that would break the sandbox's own API are refused by name, never passed over."""
    with pytest.raises((SandboxException, InvalidArgumentException), match=named.replace(".", r"\.")):
        Sandbox.create(network=network, **server.sdk)


@pytest.mark.parametrize(("method", "path"), [row[:2] for row in (*ROUTES, *NOT_BUILT)])
def test_rest_routes_need_a_key(control_plane: ControlPlane, method: str, path: str) -> None:
    """Every route of the REST API refuses requests without a key and with wrong ones, also to a sandbox that exists."""
    sandbox_id = create(control_plane)["sandboxID"]
    target = re.sub(r"{\w+}", "x", path.replace("{sandbox_id}", sandbox_id))
    key = control_plane.api_key
    keys: tuple[dict[str, str], ...] = (
        {},
        {"X-API-KEY": ""},
        {"X-API-KEY": "e2b_" + "0" * 40},
        {"X-API-KEY": key[:-1]},
        {"X-API-KEY": key + "0"},
    )
    for headers in (*keys, {"Authorization": "Bearer x"}, {"X-Access-Token": key}):
        answer = call(control_plane.url, "POST" if method == "*" else method, target, body={}, headers=headers)
        assert (answer.status, answer.json()["code"]) == (401, 401), (headers, answer.body)


def test_basic_authentication_passes(control_plane: ControlPlane) -> None:
    """The user that a client selects by basic authentication reaches the agent and programs as it was sent."""
    sandbox_id = create(control_plane)["sandboxID"]
    control_plane.run(lambda: control_plane.node.find(sandbox_id).serve(PORT, echo))
    seen = call(control_plane.url, "GET", "/", headers=to(sandbox_id, Authorization="Basic dXNlcjo=")).json()
    assert ["Authorization", "Basic dXNlcjo="] in seen["headers"]


def _signed(token: str, operation: str, *, user: str | None = None, expires_in_s: int | None = None) -> str:
    signature = get_signature("/a b/é", operation, user, token, expires_in_s)  # type: ignore[arg-type]  # parametrized as text
    words = [f"path={quote('/a b/é')}", f"signature={quote(signature['signature'] or '', safe='')}"]
    words += [] if user is None else [f"username={user}"]
    words += [] if signature["expiration"] is None else [f"signature_expiration={signature['expiration']}"]
    return "/files?" + "&".join(words)


@pytest.mark.parametrize("user", [None, "root"])
@pytest.mark.parametrize("expires_in_s", [None, 60])
@pytest.mark.parametrize(("method", "operation"), [("GET", "read"), ("HEAD", "read"), ("POST", "write")])
def test_signed_urls_find_their_sandbox(
    control_plane: ControlPlane, method: str, operation: str, user: str | None, expires_in_s: int | None
) -> None:
    """A signed URL that names no sandbox, as SDKs make with E2B_SANDBOX_URL, reaches the one whose token signed it, target untouched."""
    sandboxes = [create(control_plane) for _ in range(3)]
    seen: list[str] = []
    for made in sandboxes:
        _replace_agent(control_plane, made["sandboxID"], seen)
    target = _signed(sandboxes[1]["envdAccessToken"], operation, user=user, expires_in_s=expires_in_s)
    answer = call(control_plane.url, method, target)
    assert answer.status == 200, answer.body
    assert seen == [f"{sandboxes[1]['sandboxID']} {method} {target}"]


def _replace_agent(plane: ControlPlane, sandbox_id: str, seen: list[str]) -> None:
    from aiohttp import web

    inside = plane.node.find(sandbox_id)

    async def handle(request: web.Request) -> web.Response:
        seen.append(f"{sandbox_id} {request.method} {request.raw_path}")
        return web.Response(text="file")

    inside.agent = handle


def test_wrong_signatures_reach_nothing(control_plane: ControlPlane) -> None:
    """A signature of another operation, path, user, expiry or token fits no sandbox; neither does one of a sandbox that ended."""
    made = create(control_plane)
    token = made["envdAccessToken"]
    good = _signed(token, "read", user="user", expires_in_s=60)
    wrong = [
        good.replace("username=user", "username=root"),
        good.replace("path=", "path=/"),
        good.replace("signature_expiration=", "signature_expiration=9"),
        _signed(token, "write", user="user", expires_in_s=60),
        _signed("x" + token, "read", user="user", expires_in_s=60),
        "/files?path=/x&signature=",
        "/files?path=/x&signature=v1_%00%ff",
    ]
    for target in wrong:
        answer = call(control_plane.url, "GET", target)
        assert (answer.status, answer.json()["message"]) == (401, "invalid signature: no running sandbox has signed this URL"), target
    assert call(control_plane.url, "DELETE", good).status == 404
    ask(control_plane, "DELETE", f"/sandboxes/{made['sandboxID']}")
    assert call(control_plane.url, "GET", good).status == 401


def test_signatures_are_searched_fast(control_plane: ControlPlane) -> None:
    """A wrong signature costs little, also when many sandboxes run."""
    for _ in range(30):
        create(control_plane)
    began = time.perf_counter()
    for _ in range(20):
        assert json.loads(call(control_plane.url, "GET", "/files?path=/x&signature=v1_x").body)["code"] == 401
    assert time.perf_counter() - began < 2
