"""Teams against each other and against their operator: keys, metrics, limits. A team has what it was given, whatever it sends."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

from cloister.api.routes import ADMIN_ROUTES
from cloister.control.keys import Keys
from cloister.control.teams import Teams
from cloister.errors import NotFoundError, PermissionDeniedError
from cloister.model.sandbox import Sandbox, SandboxState
from cloister.model.stored_secret import StoredSecret
from cloister.model.team import ApiKey, KeyScope, Team, TeamLimits
from cloister.model.template import OwnedTemplate
from cloister.store.sqlite import SqliteStore
from framework.control_plane import ControlPlane, running_control_plane
from framework.http import Answer, call
from framework.requests import ask, create
from framework.template_requests import request_build, start, wait_for

_T = TypeVar("_T")
_NO_KEY = "5b1fe2a4-4f51-4b6f-8a4e-27ab02a05c1e"
_NO_LIMITS = TeamLimits()


def admin_key(plane: ControlPlane) -> str:
    """A new key of the operator."""
    _, secret = plane.with_keys(lambda keys: keys.create_for_operator(KeyScope.ADMIN, "admin"))
    return secret


def other_key(plane: ControlPlane, expires_at: float | None = None) -> tuple[ApiKey, str]:
    """A key of another team."""
    return plane.with_keys(lambda keys: keys.create("other", "theirs", expires_at))


def as_team(plane: ControlPlane, key: str, method: str, path: str, body: Any = None) -> Answer:
    """A request with this key."""
    return call(plane.url, method, path, body=body, headers={"X-API-KEY": key})


def on_store(plane: ControlPlane, work: Callable[[Teams], Awaitable[_T]]) -> _T:
    """Do ``work`` through another connection to the store, as ``cloister team`` does."""

    async def done() -> _T:
        store = await SqliteStore.open(plane.settings.data_dir / "api" / "cloister.db")
        try:
            return await work(Teams(store))
        finally:
            await store.close()

    return plane.run(done)


def limit(plane: ControlPlane, name: str, **changes: object) -> Team:
    """Change limits of a team while the server runs."""

    async def change(teams: Teams) -> Team:
        return await teams.limit(await teams.find(name), changes, _NO_LIMITS)

    return on_store(plane, change)


def at_once(plane: ControlPlane, requests: list[tuple[str, str, Any]]) -> list[tuple[int, Any]]:
    """Send all requests at the same time; status and JSON of each answer."""

    async def send() -> list[tuple[int, Any]]:
        headers = {"X-API-KEY": plane.api_key}
        async with aiohttp.ClientSession(plane.url, headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:

            async def one(method: str, path: str, body: Any) -> tuple[int, Any]:
                async with session.request(method, path, json=body) as answer:
                    return answer.status, await answer.json(content_type=None)

            return await asyncio.gather(*(one(*request) for request in requests))

    return asyncio.run(send())


def test_team_cannot_see_or_change_another_teams_keys(control_plane: ControlPlane) -> None:
    """Another team's key is in no list, as absent as one that never was, and goes on to work."""
    theirs, secret = other_key(control_plane)
    listed = ask(control_plane, "GET", "/api-keys").json()
    assert [key["name"] for key in listed] == ["default"]
    assert secret not in str(listed)
    for method, body in (("DELETE", None), ("PATCH", {"name": "mine"})):
        for path in ("/api-keys/", "/access-tokens/") if method == "DELETE" else ("/api-keys/",):
            answers = [ask(control_plane, method, path + key_id, body) for key_id in (theirs.key_id, _NO_KEY)]
            assert [answer.status for answer in answers] == [404, 404]
            assert answers[0].body.replace(theirs.key_id.encode(), b"") == answers[1].body.replace(_NO_KEY.encode(), b"")
    assert [key["name"] for key in as_team(control_plane, secret, "GET", "/api-keys").json()] == ["theirs"]


def test_team_cannot_read_another_teams_metrics(control_plane: ControlPlane) -> None:
    """Another team's id is answered as one that does not exist, by every form of the id."""
    theirs, _ = other_key(control_plane)
    for path in ("/metrics", "/metrics/max?metric=concurrent_sandboxes"):
        bodies = {
            (answer.status, answer.body)
            for team in (theirs.team_id, "team_" + "0" * 16, "other", "default", "%2e%2e", "x'%20OR%201=1--")
            if (answer := ask(control_plane, "GET", f"/teams/{team}{path}"))
        }
        assert len(bodies) == 1
        assert bodies.pop()[0] == 404


@pytest.mark.parametrize(
    "fields",
    [
        {"scope": "admin"},
        {"scope": "metrics"},
        {"teamID": "team_" + "0" * 16},
        {"team": "other"},
        {"isAdmin": True},
        {"limits": {"sandboxes": 9}},
        {"key": "e2b_" + "0" * 40},
        {"id": _NO_KEY},
        {"createdBy": None, "lastUsed": "x"},
    ],
)
def test_team_cannot_make_a_key_with_more_power(control_plane: ControlPlane, fields: dict[str, Any]) -> None:
    """A field about power or owner is refused by name, and no key is made of it."""
    for path in ("/api-keys", "/access-tokens"):
        answer = ask(control_plane, "POST", path, {"name": "x", **fields})
        assert answer.status == 400, answer.body
        assert "unknown field" in answer.json()["message"]
    for name in ("cla_x", "admin", "x' --"):  # a name is a name
        made = ask(control_plane, "POST", "/api-keys", {"name": name}).json()
        assert made["key"].startswith("e2b_")
        assert as_team(control_plane, made["key"], "GET", "/admin/teams").status == 403
    assert {key.scope for key, _ in control_plane.with_keys(lambda keys: keys.list())} == {KeyScope.TEAM}


def test_keys_cannot_open_routes_of_another_scope(control_plane: ControlPlane) -> None:
    """No key of a team or of metrics opens an operator's route, and an admin key opens nothing else."""
    theirs, _ = other_key(control_plane)
    admin, metrics = admin_key(control_plane), control_plane.metrics_key()
    for method, route, _ in ADMIN_ROUTES:
        named = {"team_id": theirs.team_id or "", "key_id": theirs.key_id, "sandbox_id": "i" * 20, "node_id": "node_" + "0" * 16}
        path = route.format(**named)
        for key, status in ((control_plane.api_key, 403), (metrics, 403), ("cla_" + "0" * 40, 401)):
            for headers in ({"X-API-KEY": key}, {"X-Admin-Token": key}, {"Authorization": f"Bearer {key}"}):
                assert call(control_plane.url, method, path, body={"name": "x"}, headers=headers).status == status, (method, path)
        assert call(control_plane.url, method, path, body={"name": "x"}).status == 401
    assert as_team(control_plane, admin, "GET", "/admin/teams").status == 200
    for path in ("/teams", "/api-keys", "/sandboxes", "/secrets", "/templates"):
        assert as_team(control_plane, admin, "GET", path).status == 401
    assert call(control_plane.url, "GET", "/metrics", headers={"Authorization": f"Bearer {admin}"}).status == 403
    assert [team["name"] for team in as_team(control_plane, admin, "GET", "/admin/teams").json()] == ["default", "other"]


def test_expiring_key_cannot_make_one_that_outlives_it(control_plane: ControlPlane) -> None:
    """A key ends with the one that made it, also over several, and then gets a clear 401."""
    ends = time.time() + 5
    _, secret = other_key(control_plane, ends)
    later = {"name": "later", "expiresAt": "2090-01-01T00:00:00Z"}
    first = as_team(control_plane, secret, "POST", "/api-keys", later).json()
    second = as_team(control_plane, first["key"], "POST", "/access-tokens", {"name": "never"}).json()
    for key in (first["key"], second["token"]):
        while as_team(control_plane, key, "GET", "/teams").status == 200:
            assert time.time() < ends + 1
            time.sleep(0.1)
        answer = as_team(control_plane, key, "GET", "/teams")
        assert (answer.status, "expired at 20" in answer.json()["message"]) == (401, True)


def test_revoked_key_cannot_make_one_more_request(control_plane: ControlPlane) -> None:
    """No cache keeps a key: the next request is refused, on an open connection too."""

    async def attack() -> list[int]:
        made = [ask(control_plane, "POST", "/api-keys", {"name": "x"}).json() for _ in range(2)]
        statuses = []
        for one, by_cli in zip(made, (False, True), strict=True):
            async with aiohttp.ClientSession(control_plane.url, headers={"X-API-KEY": one["key"]}) as session:

                async def status(session: aiohttp.ClientSession = session) -> int:
                    async with session.get("/teams") as answer:
                        return answer.status

                statuses += [await status(), await status()]
                if by_cli:
                    await asyncio.to_thread(control_plane.with_keys, lambda keys, key_id=one["id"]: keys.revoke(key_id))
                else:
                    async with session.delete(f"/api-keys/{one['id']}") as answer:
                        statuses.append(answer.status)
                statuses.append(await status())
        return statuses

    assert asyncio.run(attack()) == [200, 200, 204, 401, 200, 200, 401]


@pytest.mark.parametrize("name", ["team_0123456789abcdef", "", "x" * 129, "a\nb", "a\u202eb", "a\u0000b"])
def test_team_cannot_have_a_name_that_deceives(control_plane: ControlPlane, name: str) -> None:
    """A name is not taken for an id, and does not break or turn a line of a list."""
    answer = as_team(control_plane, admin_key(control_plane), "POST", "/admin/teams", {"name": name})
    assert answer.status == 400


def test_odd_names_cannot_reach_another_team(control_plane: ControlPlane) -> None:
    """A name that looks like another's, like a path or like SQL is that of a team of its own."""
    admin = admin_key(control_plane)
    names = ["Default", "default ", "..", "'; DROP TABLE teams; --", "d\u0435fault", "%2e%2e", "größe", "a/b"]
    for name in names:
        made = as_team(control_plane, admin, "POST", "/admin/teams", {"name": name}).json()
        key = as_team(control_plane, admin, "POST", f"/admin/teams/{made['teamID']}/api-keys", {"name": "k"}).json()["key"]
        assert as_team(control_plane, key, "GET", "/teams").json()[0]["teamID"] == made["teamID"]
        assert len(as_team(control_plane, key, "GET", "/api-keys").json()) == 1
        assert as_team(control_plane, admin, "POST", "/admin/teams", {"name": name}).status == 409
    assert [team["name"] for team in as_team(control_plane, admin, "GET", "/admin/teams").json()] == ["default", *names]


def test_client_cannot_pass_the_limit_by_creations_at_once(control_plane: ControlPlane) -> None:
    """Of 100 creations at once with a limit of 5, exactly 5 succeed, and refusals name limit, use and remedy."""
    limit(control_plane, "default", sandboxes=5)
    answers = at_once(control_plane, [("POST", "/v2/sandboxes", {"templateID": "base"})] * 100)
    assert Counter(status for status, _ in answers) == {201: 5, 429: 95}
    (message,) = {body["message"] for status, body in answers if status == 429}
    assert "the team has 5 live sandboxes" in message
    assert "its limit sandboxes, 5" in message
    assert "cloister team limit" in message
    assert len(control_plane.node.sandboxes) == 5
    limit(control_plane, "default", sandboxes=6)
    create(control_plane)  # the change holds without a restart


def test_client_cannot_pass_the_limit_by_resumes_and_creations_at_once(control_plane: ControlPlane) -> None:
    """Paused sandboxes that are resumed while others are created take the same places."""
    paused = [create(control_plane)["sandboxID"] for _ in range(5)]
    for sandbox_id in paused:
        assert ask(control_plane, "POST", f"/sandboxes/{sandbox_id}/pause").status == 204
    limit(control_plane, "default", sandboxes=4, cpu_count=100)
    resumes = [("POST", f"/sandboxes/{sandbox_id}/connect", {"timeout": 60}) for sandbox_id in paused]
    answers = at_once(control_plane, [*resumes, *[("POST", "/v2/sandboxes", {"templateID": "base"})] * 5])
    assert Counter(status for status, _ in answers) == {201: 4, 429: 6}


@pytest.mark.parametrize("name", ["cpu_count", "mem_mib", "disk_mib", "paused"])
def test_client_cannot_pass_a_limit_of_size_by_creations_at_once(control_plane: ControlPlane, name: str) -> None:
    """Processors, memory, disk and places of all sandboxes of a team are bounded in the same way."""
    first = ask(control_plane, "GET", f"/sandboxes/{create(control_plane, autoPause=True)['sandboxID']}").json()
    size = {"cpu_count": first["cpuCount"], "mem_mib": first["memoryMB"], "disk_mib": first["diskSizeMB"], "paused": 1}[name]
    limit(control_plane, "default", **{name: 3 * size})
    answers = at_once(control_plane, [("POST", "/v2/sandboxes", {"templateID": "base", "autoPause": True})] * 12)
    assert Counter(status for status, _ in answers) == {201: 2, 429: 10}
    assert all(f"its limit {name}, " in body["message"] for status, body in answers if status == 429)


def test_client_cannot_create_faster_than_its_rate(control_plane: ControlPlane) -> None:
    """As many creations as the rate come at once; further ones may be repeated later."""
    limit(control_plane, "default", creations_per_s=3)
    began = time.monotonic()
    answers = at_once(control_plane, [("POST", "/v2/sandboxes", {"templateID": "base"})] * 30)
    made = Counter(status for status, _ in answers)
    assert set(made) == {201, 429}
    assert 3 <= made[201] <= 3 + 3 * (time.monotonic() - began)
    refused = next(body["message"] for status, body in answers if status == 429)
    assert "more than 3 sandboxes a second" in refused
    limit(control_plane, "default", creations_per_s=0.001)
    answer = ask(control_plane, "POST", "/v2/sandboxes", {"templateID": "base"})
    while answer.status == 201:
        answer = ask(control_plane, "POST", "/v2/sandboxes", {"templateID": "base"})
    assert (answer.status, answer.headers["Should-Retry"]) == (429, "true")


def test_removed_team_cannot_do_anything(control_plane: ControlPlane) -> None:
    """A removal is refused while sandboxes live; with kill they end, and keys and secrets are gone."""
    theirs, secret = other_key(control_plane)
    admin, path = admin_key(control_plane), f"/admin/teams/{theirs.team_id}"
    assert as_team(control_plane, secret, "POST", "/secrets", {"name": "s", "value": "v"}).status == 201
    sandbox_id = as_team(control_plane, secret, "POST", "/v2/sandboxes", {"templateID": "base"}).json()["sandboxID"]
    refused = as_team(control_plane, admin, "DELETE", path)
    assert (refused.status, "1 live or paused" in refused.json()["message"]) == (409, True)
    assert as_team(control_plane, secret, "GET", "/teams").status == 200
    assert as_team(control_plane, admin, "DELETE", f"{path}?kill=true").json() == {"killedCount": 1}
    assert sandbox_id not in control_plane.node.sandboxes
    assert as_team(control_plane, secret, "GET", "/teams").status == 401
    assert as_team(control_plane, admin, "GET", path).status == 404
    again = as_team(control_plane, admin, "POST", "/admin/teams", {"name": "other"}).json()
    assert again["teamID"] != theirs.team_id
    key = as_team(control_plane, admin, "POST", f"/admin/teams/{again['teamID']}/api-keys", {"name": "k"}).json()["key"]
    assert as_team(control_plane, key, "GET", "/secrets").json() == []


def test_team_cannot_raise_its_limits(control_plane: ControlPlane) -> None:
    """No request of a team changes a limit, and no operator raises one above the bound of every team."""
    before = limit(control_plane, "default", sandboxes=5)
    path = f"/admin/teams/{before.team_id}"
    for method, target in (("PATCH", path), ("PATCH", f"/teams/{before.team_id}"), ("POST", "/teams"), ("PUT", path)):
        answer = ask(control_plane, method, target, {"limits": {"sandboxes": 9}})
        assert answer.status in {403, 404, 405}, (method, target)
    assert on_store(control_plane, lambda teams: teams.find("default")) == before
    most = control_plane.settings.max_sandboxes_per_team
    refused = as_team(control_plane, admin_key(control_plane), "PATCH", path, {"limits": {"sandboxes": most + 1}})
    assert (refused.status, "max_sandboxes_per_team" in refused.json()["message"]) == (400, True)


def test_late_request_of_a_removed_team_cannot_leave_anything(control_plane: ControlPlane) -> None:
    """Requests that were authenticated before the removal add no sandbox, template or secret after it."""
    theirs, secret = other_key(control_plane)

    async def remove(teams: Teams) -> None:
        await teams.remove(await teams.find("other"), even_with_sandboxes=False)

    caller = control_plane.with_keys(lambda keys: keys.authenticate(secret))
    on_store(control_plane, remove)

    async def insert() -> None:
        store = await SqliteStore.open(control_plane.settings.data_dir / "api" / "cloister.db")
        template = OwnedTemplate(template_id="t", team_id=caller.team.team_id, name="t", created_at=1.0, updated_at=1.0)
        new = StoredSecret(
            secret_id="s",
            team_id=caller.team.team_id,
            name="s",
            metadata={},
            created_at=1.0,
            updated_at=1.0,
            version=1,
            key_id="k",
            sealed=b"",
        )
        try:
            row = _row(caller.team.team_id)
            for work in (store.add_sandbox(row), store.templates.add_template(template), store.secrets.add_secret(new, most=9)):
                with pytest.raises(PermissionDeniedError, match="was removed"):
                    await work
            with pytest.raises(NotFoundError, match="was removed"):
                await Keys(store).create_for(caller.team, "late")
        finally:
            await store.close()

    control_plane.run(insert)
    assert theirs.team_id == caller.team.team_id


def test_sandboxes_cannot_outlive_a_team_that_was_removed_while_the_server_was_stopped(control_plane: ControlPlane) -> None:
    """Their rows have ended, and the next start kills those that still run."""
    theirs, secret = other_key(control_plane)
    sandbox_id = as_team(control_plane, secret, "POST", "/v2/sandboxes", {"templateID": "base"}).json()["sandboxID"]

    async def remove(teams: Teams) -> None:
        await teams.remove(await teams.find("other"), even_with_sandboxes=True, ends_sandboxes=True)

    on_store(control_plane, remove)
    control_plane.restart_api()
    deadline = time.monotonic() + 10
    while sandbox_id in control_plane.node.sandboxes:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert str(theirs.team_id) not in str(as_team(control_plane, admin_key(control_plane), "GET", "/admin/teams").body)


def test_team_cannot_pass_the_defaults_of_the_server(tmp_path: Path) -> None:
    """A team without limits of its own has those of the settings; one with its own has these."""
    with running_control_plane(tmp_path / "plane", default_sandboxes_per_team=2) as plane:
        answers = at_once(plane, [("POST", "/v2/sandboxes", {"templateID": "base"})] * 5)
        assert Counter(status for status, _ in answers) == {201: 2, 429: 3}
        limit(plane, "default", sandboxes=3)
        create(plane)
        assert ask(plane, "POST", "/v2/sandboxes", {"templateID": "base"}).status == 429


def test_team_cannot_pass_the_bounds_of_every_team(tmp_path: Path) -> None:
    """A limit in the store that is above the setting, as after a change of settings, is lowered to it."""
    with running_control_plane(tmp_path / "plane", max_sandboxes_per_team=2) as plane:
        limit(plane, "default", sandboxes=5)
        answers = at_once(plane, [("POST", "/v2/sandboxes", {"templateID": "base"})] * 5)
        assert Counter(status for status, _ in answers) == {201: 2, 429: 3}


def test_builds_of_a_removed_team_end(control_plane: ControlPlane) -> None:
    """A build that runs is cancelled on the node, and the template of it is gone."""
    control_plane.node.builds_run = False
    template_id, build_id = request_build(control_plane, "mine")
    assert start(control_plane, template_id, build_id).status == 202
    wait_for(control_plane, template_id, build_id, "waiting", "building")
    admin = admin_key(control_plane)
    assert as_team(control_plane, admin, "DELETE", "/admin/teams/default").status == 200
    deadline = time.monotonic() + 10
    while control_plane.run(lambda: _unfinished(control_plane)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def _unfinished(plane: ControlPlane) -> bool:
    store = await SqliteStore.open(plane.settings.data_dir / "api" / "cloister.db")
    try:
        return bool(await store.templates.list_unfinished_builds())
    finally:
        await store.close()


def _row(team_id: str) -> Sandbox:
    return Sandbox(
        sandbox_id="s" * 20,
        team_id=team_id,
        template_id="tpl",
        template="base",
        state=SandboxState.CREATING,
        started_at=1.0,
        end_at=4e9,
        cpu_count=1.0,
        mem_mib=10,
        disk_mib=20,
        metadata={},
        access_token=None,
    )
