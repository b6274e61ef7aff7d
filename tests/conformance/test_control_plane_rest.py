"""The REST API over plain HTTP: statuses, shapes and refusals that SDKs build on."""

from __future__ import annotations

import contextlib
import http.client
import time
from datetime import datetime
from typing import Any

import pytest

from cloister.api.routes import ADMIN_ROUTES, HINTS, NOT_BUILT, ROUTES
from cloister.control.keys import Keys
from framework.control_plane import ControlPlane
from framework.http import call
from framework.requests import ask, create
from framework.waiting import eventually

pytestmark = pytest.mark.root

PATH_PARTS = {
    "sandbox_id": "a" * 20,
    "template_id": "t",
    "build_id": "5b1fe2a4-4f51-4b6f-8a4e-27ab02a05c1e",
    "hash": "0" * 64,
    "tag": "v1",
    "alias": "base",
    "volume_id": "v",
    "node_id": "n",
    "secret_id": "s",
    "webhook_id": "w",
    "delivery_id": "1",
    "team_id": "t",
    "key_id": "k",
}


def lifetime_s(plane: ControlPlane, sandbox_id: str) -> float:
    """Seconds from start to end of a sandbox."""
    detail = ask(plane, "GET", f"/sandboxes/{sandbox_id}").json()
    start, end = (datetime.fromisoformat(detail[name]) for name in ("startedAt", "endAt"))
    return (end - start).total_seconds()


@pytest.mark.parametrize(("path", "seconds"), [("/sandboxes", 15), ("/v2/sandboxes", 300)])
def test_default_timeouts(control_plane: ControlPlane, path: str, seconds: int) -> None:
    """The two creating calls have different default timeouts."""
    assert abs(lifetime_s(control_plane, create(control_plane, path)["sandboxID"]) - seconds) < 1


def test_security_of_the_two_versions(control_plane: ControlPlane) -> None:
    """v2 is always secure; v1 only when asked, and then gives no token."""
    assert create(control_plane, "/v2/sandboxes")["envdAccessToken"]
    assert create(control_plane, "/sandboxes", secure=True)["envdAccessToken"]
    assert "envdAccessToken" not in create(control_plane, "/sandboxes")
    assert ask(control_plane, "POST", "/v2/sandboxes", {"templateID": "base", "secure": False}).status == 400


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "templateID is missing"),
        ({"templateID": 5}, "templateID must be a string"),
        ({"templateID": " "}, "templateID must not be empty"),
        ({"templateID": "base", "timeout": "5"}, "timeout must be a whole number"),
        ({"templateID": "base", "timeout": 0}, "Timeout must be greater than 0"),
        ({"templateID": "base", "metadata": {"a": 1}}, "metadata.a must be a string"),
        ({"templateID": "base", "envVars": {"a=b": "c"}}, "envVars.a=b"),
        ({"templateID": "base", "network": {"new": 1}}, "unknown field: network.new"),
        ({"templateID": "base", "surprise": True, "userName": "root"}, "unknown field: userName (its name says"),
        ({"templateID": "base", "allow_outgoing": False}, "unknown field: allow_outgoing"),
        ({"templateID": "base", "volumeMounts": [{"name": "v", "path": "/v"}]}, "invalid mounts:\nvolume 'v' not found"),
        ({"templateID": "base", "volumeMounts": [{"name": "v", "path": "/v", "new": 1}]}, "unknown field: volumeMounts[1].new"),
        ({"templateID": "base", "autoResume": {"enabled": 1}}, "autoResume.enabled must be true or false"),
        ({"templateID": "base", "autoPauseMemory": False}, "autoPauseMemory: false needs autoPause: true"),
        ({"templateID": "base", "autoPause": True, "autoPauseMemory": False, "autoResume": {"enabled": True}}, "excludes autoResume"),
        ([], "the body must be a JSON object"),
        (b"{", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"", "the body is not JSON"),
    ],
)
def test_bad_bodies(control_plane: ControlPlane, body: Any, named: str) -> None:
    """A bad body is 400 and names the field."""
    answer = ask(control_plane, "POST", "/v2/sandboxes", body)
    assert (answer.status, answer.json()["code"]) == (400, 400)
    assert named in answer.json()["message"]


def test_templates_on_demand_say_how_to_build_them(control_plane: ControlPlane) -> None:
    """A creation that names a template which comes with the server, and is not built, says what to do."""
    for name in ("desktop", "Claude:latest"):
        answer = ask(control_plane, "POST", "/v2/sandboxes", {"templateID": name})
        word = name.lower().partition(":")[0]
        assert (answer.status, f"'cloister template build {word}'" in answer.json()["message"]) == (404, True)


def test_unknown_fields_are_passed_over(control_plane: ControlPlane) -> None:
    """A field that a newer SDK sends does not stop a creation, a build or a tag when its name has nothing to do with isolation or cost."""
    news: dict[str, Any] = {"surprise": {"a": [1]}, "description": "x", "network": None, "volumesNew": [], "gpu": None, "labels": {"a": "b"}}
    create(control_plane, "/v2/sandboxes", **news)
    create(control_plane, "/sandboxes", **news)
    assert ask(control_plane, "POST", "/v3/templates", {"name": "news", **news}).status == 202


def test_neutral_fields_pass(control_plane: ControlPlane) -> None:
    """Fields at values that ask for nothing are accepted."""
    neutral: dict[str, Any] = {
        "autoPause": False,
        "autoResume": {"enabled": False},
        "mcp": None,
        "volumeMounts": [],
        "network": {"allowPublicTraffic": True},
    }
    create(control_plane, **neutral)


def test_deny_all_is_internet_off(control_plane: ControlPlane) -> None:
    """Denying every address closes the network as no internet access does."""
    sandbox_id = create(control_plane, network={"denyOut": ["0.0.0.0/0"]})["sandboxID"]
    assert control_plane.node.find(sandbox_id).request.egress.is_closed


def test_every_error_has_the_published_shape(control_plane: ControlPlane) -> None:
    """Unknown paths, wrong methods, missing keys and refused routes answer JSON with code and message."""
    answers = [
        call(control_plane.url, "GET", "/nowhere"),
        call(control_plane.url, "PUT", "/sandboxes"),
        call(control_plane.url, "GET", "/sandboxes"),
        call(control_plane.url, "GET", "/sandboxes", headers={"X-API-KEY": "x" * 100_000}),
        ask(control_plane, "POST", "/v2/sandboxes", b"x" * (9 << 20)),
        ask(control_plane, "GET", "/v2/sandboxes?limit=x"),
        ask(control_plane, "GET", "/v2/sandboxes?nextToken=x"),
    ]
    for answer in answers[:3] + answers[4:]:
        assert answer.json()["code"] == answer.status
        assert answer.json()["message"]
    assert [answer.status for answer in answers] == [404, 405, 401, 431, 413, 400, 400]


def test_routes_that_are_not_built(control_plane: ControlPlane) -> None:
    """Every known route that is not built is refused by name, to those with a key."""
    for method, path, what in NOT_BUILT:
        concrete = path.format_map(PATH_PARTS)
        answer = ask(control_plane, "POST" if method == "*" else method, concrete)
        message = f"{what} is not supported by this server"
        hint = f" ({HINTS[what]})" if what in HINTS else ""
        assert (answer.status, answer.json()["message"]) == (400, message + hint)


def test_every_route_wants_a_key(control_plane: ControlPlane) -> None:
    """No route but health answers without a key."""
    for method, path, _ in (*ROUTES, *NOT_BUILT, *ADMIN_ROUTES):
        concrete = path.format_map(PATH_PARTS)
        assert call(control_plane.url, "GET" if method == "*" else method, concrete).status == 401
    assert call(control_plane.url, "GET", "/health").status == 200


def _second_key(plane: ControlPlane) -> str:
    _, secret = plane.with_keys(lambda keys: keys.create("other", "test"))
    return secret


def test_another_team_cannot_tell_a_sandbox_from_none(control_plane: ControlPlane) -> None:
    """To another team's key a sandbox is exactly as absent as one that never was, and killing it fails (I5)."""
    sandbox_id = create(control_plane)["sandboxID"]
    other = {"X_API_KEY": _second_key(control_plane)}
    for method, path, body in (
        ("GET", "/sandboxes/{}", None),
        ("DELETE", "/sandboxes/{}", None),
        ("POST", "/sandboxes/{}/timeout", {"timeout": 5}),
        ("POST", "/sandboxes/{}/refreshes", {}),
        ("POST", "/v2/sandboxes/{}/connect", {}),
        ("POST", "/sandboxes/{}/connect", {"timeout": 5}),
        ("GET", "/sandboxes/{}/metrics", None),
    ):
        theirs, none = (ask(control_plane, method, path.format(name), body, **other) for name in (sandbox_id, "b" * 20))
        assert theirs.status == none.status == 404
        assert theirs.body.replace(sandbox_id.encode(), b"") == none.body.replace(b"b" * 20, b"")
    for path in ("/sandboxes", "/v2/sandboxes"):
        assert ask(control_plane, "GET", path, **other).json() == []
    assert ask(control_plane, "GET", f"/sandboxes/metrics?sandbox_ids={sandbox_id}", **other).json() == {"sandboxes": {}}
    assert sandbox_id in control_plane.node.sandboxes


def test_a_revoked_key_is_refused_at_once(control_plane: ControlPlane) -> None:
    """A key that another process revokes is refused by the next request."""
    secret = _second_key(control_plane)
    assert call(control_plane.url, "GET", "/sandboxes", headers={"X-API-KEY": secret}).status == 200
    key_id = next(key.key_id for key, team in control_plane.with_keys(Keys.list) if team is not None and team.name == "other")
    control_plane.with_keys(lambda keys: keys.revoke(key_id))
    assert call(control_plane.url, "GET", "/sandboxes", headers={"X-API-KEY": secret}).status == 401


def test_refresh_has_a_floor_and_only_prolongs(control_plane: ControlPlane) -> None:
    """Refreshing prolongs to at least 15 s from now and never shortens."""
    sandbox_id = create(control_plane, timeout=5)["sandboxID"]
    assert ask(control_plane, "POST", f"/sandboxes/{sandbox_id}/refreshes", {"duration": 1}).status == 204
    assert lifetime_s(control_plane, sandbox_id) >= 15
    ask(control_plane, "POST", f"/sandboxes/{sandbox_id}/timeout", {"timeout": 100})
    ask(control_plane, "POST", f"/sandboxes/{sandbox_id}/refreshes", {"duration": 20})
    assert lifetime_s(control_plane, sandbox_id) > 90


def test_templates_and_teams(control_plane: ControlPlane) -> None:
    """Templates are listed and found by name; the key's team is told."""
    for path in ("/templates", "/v2/templates"):
        assert [entry["names"] for entry in ask(control_plane, "GET", path).json()] == [["base"], ["code-interpreter-v1"]]
    assert ask(control_plane, "GET", "/templates/aliases/base").json()["templateID"] == "tplbase"
    assert ask(control_plane, "GET", "/templates/aliases/nope").status == 404
    (team,) = call(control_plane.url, "GET", "/teams", headers={"Authorization": f"Bearer {control_plane.api_key}"}).json()
    assert team["name"] == "default"


@pytest.mark.parametrize(("name", "status"), [("BASE", 201), ("base:default", 201), ("tplbase", 201), ("base:other", 404), ("", 400)])
def test_names_of_templates(control_plane: ControlPlane, name: str, status: int) -> None:
    """Templates go by id, by name in any case and by their one tag."""
    assert ask(control_plane, "POST", "/v2/sandboxes", {"templateID": name}).status == status


def test_client_that_leaves_during_a_creation(control_plane: ControlPlane) -> None:
    """A sandbox whose client went away while it was being created does not stay."""
    control_plane.node.create_delay_s = 1.0
    connection = http.client.HTTPConnection("127.0.0.1", int(control_plane.url.rpartition(":")[2]), timeout=0.2)
    with contextlib.closing(connection):
        connection.request("POST", "/v2/sandboxes", body=b'{"templateID": "base"}', headers={"X-API-KEY": control_plane.api_key})
        with pytest.raises(TimeoutError):
            connection.getresponse()
    time.sleep(1.3)
    assert control_plane.node.creates == 1
    assert control_plane.node.sandboxes == {}
    assert ask(control_plane, "GET", "/sandboxes").json() == []


def test_health_without_a_supervisor(control_plane: ControlPlane) -> None:
    """Health says 503 while the supervisor is away, and 200 again when it is back."""
    control_plane.run(control_plane.node.die)
    deadline = time.monotonic() + 5
    while call(control_plane.url, "GET", "/health").status != 503:
        assert time.monotonic() < deadline
    control_plane.run(control_plane.node.start)
    while call(control_plane.url, "GET", "/health").status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_metrics_of_the_server(control_plane: ControlPlane) -> None:
    """Prometheus gets how many sandboxes live and how they were started, by the credential that it sends."""
    create(control_plane, "/v2/sandboxes")
    answer = call(control_plane.url, "GET", "/metrics", headers={"Authorization": f"Bearer {control_plane.metrics_key()}"})
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    values = dict(line.rsplit(" ", 1) for line in answer.body.decode().splitlines() if not line.startswith("#"))
    assert float(values["cloister_sandboxes"]) >= 1
    for name in (
        'cloister_creations_total{start="cold"}',
        'cloister_builds{status="waiting"}',
        'cloister_builds_ended_total{status="ready"}',
        'cloister_paused_sandboxes{kind="frozen"}',
        'cloister_changes_total{change="pause",outcome="failed"}',
        "cloister_wakes_total",
    ):
        assert float(values[name]) == 0, name
    assert values['cloister_requests_total{method="POST",route="/v2/sandboxes",status="2xx"}'] == "1.0"
    assert values['cloister_sandboxes_by_team{state="running",team="default"}'] == values["cloister_sandboxes"]
    assert float(values['cloister_process_open_descriptors{process="api"}']) > 3


def test_metrics_without_a_supervisor(control_plane: ControlPlane) -> None:
    """While the supervisor is away, a scrape says so and has the numbers of the API; when it is back, those of the supervisor too."""
    headers = {"Authorization": f"Bearer {control_plane.metrics_key()}"}
    control_plane.run(control_plane.node.die)
    text = call(control_plane.url, "GET", "/metrics", headers=headers).body.decode()
    assert "cloister_supervisor_up 0.0\n" in text
    assert "cloister_sandboxes_by_state{" in text
    assert "cloister_creations_total{" not in text
    control_plane.run(control_plane.node.start)
    eventually(lambda: "cloister_supervisor_up 1.0\n" in call(control_plane.url, "GET", "/metrics", headers=headers).body.decode())
