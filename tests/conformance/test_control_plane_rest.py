"""The REST API over plain HTTP: statuses, shapes and refusals that SDKs build on."""

from __future__ import annotations

import contextlib
import http.client
import time
from datetime import datetime
from typing import Any

import pytest

from cloister.api.routes import NOT_BUILT, ROUTES
from cloister.control.keys import Keys
from cloister.store.sqlite import SqliteStore
from framework.control_plane import ControlPlane
from framework.http import call
from framework.requests import ask, create

pytestmark = pytest.mark.root

PATH_PARTS = {
    "sandbox_id": "a" * 20,
    "template_id": "t",
    "build_id": "5b1fe2a4-4f51-4b6f-8a4e-27ab02a05c1e",
    "hash": "0" * 64,
    "tag": "v1",
    "alias": "base",
    "volume_id": "v",
    "secret_id": "s",
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
        ({"templateID": "base", "timeout": 0}, "timeout must be at least 1"),
        ({"templateID": "base", "metadata": {"a": 1}}, "metadata.a must be a string"),
        ({"templateID": "base", "envVars": {"a=b": "c"}}, "envVars.a=b"),
        ({"templateID": "base", "network": {"new": 1}}, "unknown field: network.new"),
        ({"templateID": "base", "surprise": True}, "unknown field: surprise"),
        ({"templateID": "base", "volumeMounts": [{"name": "v", "path": "/v"}]}, "volumeMounts is not supported"),
        ({"templateID": "base", "autoResume": {"enabled": True}}, "autoResume.enabled is not supported"),
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
    """Denying every address is the same as no internet access."""
    sandbox_id = create(control_plane, network={"denyOut": ["0.0.0.0/0"]})["sandboxID"]
    assert not control_plane.node.find(sandbox_id).request.allow_internet


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
    assert [answer.status for answer in answers] == [404, 405, 401, 400, 413, 400, 400]


def test_routes_that_are_not_built(control_plane: ControlPlane) -> None:
    """Every known route that is not built is refused by name, to those with a key."""
    for method, path, what in NOT_BUILT:
        concrete = path.format_map(PATH_PARTS)
        answer = ask(control_plane, "POST" if method == "*" else method, concrete)
        assert (answer.status, answer.json()["message"]) == (400, f"{what} is not supported by this server")


def test_every_route_wants_a_key(control_plane: ControlPlane) -> None:
    """No route but health answers without a key."""
    for method, path, _ in (*ROUTES, *NOT_BUILT):
        concrete = path.format_map(PATH_PARTS)
        assert call(control_plane.url, "GET" if method == "*" else method, concrete).status == 401
    assert call(control_plane.url, "GET", "/health").status == 200


async def _second_key(plane: ControlPlane) -> str:
    store = await SqliteStore.open(plane.settings.data_dir / "api" / "cloister.db")
    _, secret = await Keys(store).create("other", "test")
    await store.close()
    return secret


def test_another_team_cannot_tell_a_sandbox_from_none(control_plane: ControlPlane) -> None:
    """To another team's key a sandbox is exactly as absent as one that never was, and killing it fails (I5)."""
    sandbox_id = create(control_plane)["sandboxID"]
    other = {"X_API_KEY": control_plane.run(lambda: _second_key(control_plane))}
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
    secret = control_plane.run(lambda: _second_key(control_plane))
    assert call(control_plane.url, "GET", "/sandboxes", headers={"X-API-KEY": secret}).status == 200

    async def revoke() -> None:
        store = await SqliteStore.open(control_plane.settings.data_dir / "api" / "cloister.db")
        keys = Keys(store)
        await keys.revoke(next(key.key_id for key, team in await keys.list() if team.name == "other"))
        await store.close()

    control_plane.run(revoke)
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
    """Prometheus gets how many sandboxes live and how they were started; nobody without a key does."""
    create(control_plane, "/v2/sandboxes")
    answer = ask(control_plane, "GET", "/metrics")
    lines = answer.body.decode().splitlines()
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert int(next(line for line in lines if line.startswith("cloister_sandboxes ")).split()[1]) >= 1
    assert 'cloister_creations_total{start="cold"} 0' in lines
    assert 'cloister_builds{status="waiting"} 0' in lines
    assert 'cloister_builds_ended_total{status="ready"} 0' in lines
    assert call(control_plane.url, "GET", "/metrics").status == 401
