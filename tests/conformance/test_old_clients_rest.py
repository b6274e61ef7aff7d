"""Old and unusual clients of the API and the ingress: domains, addresses, tokens and origins, over a fake node."""

from __future__ import annotations

import pytest
from aiohttp import web

from framework.control_plane import ControlPlane
from framework.http import call
from framework.requests import PORT, ask, create, echo, sandbox, to

pytestmark = pytest.mark.root
AGENT = 49983
ORIGIN = {"Origin": "https://app.example"}


def _replace_agent(plane: ControlPlane, sandbox_id: str) -> list[str]:
    """Have a server that notes who was asked play the sandbox's agent."""
    seen: list[str] = []

    async def agent(request: web.Request) -> web.Response:
        seen.append(f"{sandbox_id} {request.path_qs}")
        return web.Response(text="contents")

    plane.node.find(sandbox_id).agent = agent
    return seen


def test_no_answer_leaves_clients_to_their_vendors_domain(control_plane: ControlPlane) -> None:
    """Every answer that has a sandbox's domain names this machine: with none, SDKs send programs to their vendor's domain."""
    port = control_plane.url.rpartition(":")[2]
    for path in ("/sandboxes", "/v2/sandboxes"):
        created = create(control_plane, path)
        connected = ask(control_plane, "POST", f"{path}/{created['sandboxID']}/connect", {"timeout": 60}).json()
        detail = ask(control_plane, "GET", f"/sandboxes/{created['sandboxID']}").json()
        assert [answer["domain"] for answer in (created, connected, detail)] == [f"localhost:{port}"] * 3


def test_told_domain_reaches_ports(control_plane: ControlPlane) -> None:
    """``http://<port>-<id>.<told domain>`` is the sandbox's port, with a host that development servers take for local."""
    created = create(control_plane)
    control_plane.run(lambda: control_plane.node.find(created["sandboxID"]).serve(PORT, echo))
    host = f"{PORT}-{created['sandboxID']}.{created['domain']}"
    assert ["Host", host] in call(control_plane.url, "GET", "/", headers={"Host": host}).json()["headers"]


def test_connecting_with_the_agents_address(control_plane: ControlPlane) -> None:
    """Python SDKs 2.7 to 2.26 send the address of the sandbox's agent with the call to connect, which is for the API."""
    sandbox_id, _ = sandbox(control_plane)
    seen = _replace_agent(control_plane, sandbox_id)
    answer = ask(control_plane, "POST", f"/sandboxes/{sandbox_id}/connect", {"timeout": 60}, **to(sandbox_id, AGENT))
    assert (answer.status, answer.json()["sandboxID"]) == (200, sandbox_id)
    assert call(control_plane.url, "GET", "/health", headers=to(sandbox_id, AGENT)).body == b"contents"
    assert seen == [f"{sandbox_id} /health"]


def test_agent_by_token_alone(control_plane: ControlPlane) -> None:
    """A request for the agent without an address goes to the sandbox whose token it shows; other paths do not."""
    created = [create(control_plane) for _ in range(3)]
    seen = [_replace_agent(control_plane, one["sandboxID"]) for one in created]
    token = {"X-Access-Token": created[1]["envdAccessToken"]}
    assert call(control_plane.url, "GET", "/files?path=/x", headers=token).body == b"contents"
    assert call(control_plane.url, "POST", "/files?path=/y", body=b"z", headers=token).body == b"contents"
    assert call(control_plane.url, "POST", "/process.Process/List", body=b"{}", headers=token).body == b"contents"
    assert call(control_plane.url, "GET", "/health", headers=token).body == b"contents"
    assert call(control_plane.url, "GET", "/health").body == b"OK\n"
    assert call(control_plane.url, "POST", "/init", body=b"{}", headers=token).status == 404
    assert [len(paths) for paths in seen] == [0, 4, 0]
    ask(control_plane, "DELETE", f"/sandboxes/{created[1]['sandboxID']}")
    gone = call(control_plane.url, "GET", "/health", headers=token)
    assert (gone.status, gone.json()["message"]) == (502, "The sandbox was not found")


@pytest.mark.parametrize("path", ["/v2/sandboxes", "/sandboxes/x/connect", "/templates/x/files/y", "/files", "/nowhere"])
def test_preflights_of_the_api(control_plane: ControlPlane, path: str) -> None:
    """A browser may send a preflight from any origin, with any header, before it shows a key. It sends no credentials."""
    asked = {**ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key, content-type"}
    answer = call(control_plane.url, "OPTIONS", path, headers=asked)
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, "*")
    assert answer.headers["Access-Control-Allow-Headers"] == "x-api-key, content-type"
    assert "DELETE" in answer.headers["Access-Control-Allow-Methods"]
    assert not {"Access-Control-Allow-Credentials", "Access-Control-Allow-Private-Network"} & set(answer.headers)


def test_pages_read_answers_of_the_api(control_plane: ControlPlane) -> None:
    """The requesting page can read answers and errors, with the headers that SDKs read. Other clients get none of this."""
    listed = ask(control_plane, "GET", "/v2/sandboxes", **ORIGIN)
    refused = call(control_plane.url, "GET", "/v2/sandboxes", headers=ORIGIN)
    assert (listed.status, refused.status) == (200, 401)
    for answer in (listed, refused):
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "X-Next-Token" in answer.headers["Access-Control-Expose-Headers"]
    assert not [name for name in ask(control_plane, "GET", "/v2/sandboxes").headers if name.startswith("Access-Control")]


def test_pages_read_that_a_sandbox_is_gone(control_plane: ControlPlane) -> None:
    """A page's request to an ended sandbox passes the preflight, and the page gets the same answer as other clients."""
    asked = {**ORIGIN, "Access-Control-Request-Method": "GET"}
    assert call(control_plane.url, "OPTIONS", "/", headers={**to("c" * 20), **asked}).status == 204
    answer = call(control_plane.url, "GET", "/", headers={**to("c" * 20), **ORIGIN})
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (502, "*")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gone", ("Sandbox Not Found", "{id}", "was killed")),
        ("closed", ("no service running on port", "{id}", "4444")),
        ("secured", ("Missing Traffic Access Token", "{id}")),
    ],
)
def test_pages_for_browsers(control_plane: ControlPlane, kind: str, words: tuple[str, ...]) -> None:
    """A browser that navigates gets a page that says what is wrong, with the words of the published pages."""
    sandbox_id, _ = sandbox(control_plane, **({"network": {"allowPublicTraffic": False}} if kind == "secured" else {}))
    if kind == "gone":
        ask(control_plane, "DELETE", f"/sandboxes/{sandbox_id}")
    page = call(control_plane.url, "GET", "/", headers=to(sandbox_id, 4444, Accept="text/html")).body.decode()
    assert [word for word in words if word.format(id=sandbox_id) not in page] == []


def test_reasons_of_a_secured_sandbox(control_plane: ControlPlane) -> None:
    """Without the traffic token, and with a wrong one, the answer is the published one."""
    sandbox_id, _ = sandbox(control_plane, network={"allowPublicTraffic": False})
    said = "Sandbox is secured with traffic access token. "
    for headers, rest in (
        (to(sandbox_id), "Token header 'e2b-traffic-access-token' is missing"),
        (to(sandbox_id, e2b_traffic_access_token="x"), "Provided token in header 'e2b-traffic-access-token' is invalid"),
    ):
        answer = call(control_plane.url, "GET", "/", headers=headers)
        assert (answer.status, answer.json()) == (403, {"sandboxId": sandbox_id, "message": said + rest, "code": 403})


def test_what_a_stranger_learns_of_an_end(control_plane: ControlPlane) -> None:
    """Who knows the id of a sandbox that ended learns the kind of its end; details are for its team."""
    sandbox_id, _ = sandbox(control_plane)
    ask(control_plane, "POST", f"/sandboxes/{sandbox_id}/timeout", {"timeout": 0})
    assert call(control_plane.url, "GET", "/", headers=to(sandbox_id)).json()["reason"] == "reached its timeout"
    assert "its timeout was set to zero" in ask(control_plane, "GET", f"/sandboxes/{sandbox_id}").json()["message"]
