"""Templates and snapshots of teams: whose they are, who may do what with them, and their deletion."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from e2b.api.client.models import (
    SnapshotInfo,
    TemplateUpdateResponse,
)

from cloister.errors import RuntimeFailedError
from framework.control_plane import ControlPlane
from framework.http import call
from framework.requests import ask, create
from framework.template_requests import (
    HASH,
    build,
    building_plane,
    new_name,
    other_team,
    request_build,
    start,
)

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane whose builds run."""
    with building_plane(tmp_path_factory.mktemp("templates") / "data") as plane:
        yield plane


# ---- whose ----


def test_another_team_sees_nothing_of_a_private_template(plane: ControlPlane) -> None:
    """Every call about another team's private template, by name, namespace or id, answers as if there were none."""
    name = new_name()
    template_id, build_id = build(plane, name)
    headers = other_team(plane)
    for text in (name, template_id, f"default%2F{name}", f"default%2F{name}:default", f"default%2F{name}:{build_id}"):
        unknown = text.replace("t-", "u-") if text != template_id else "a" * 20
        for method, path, body in (
            ("GET", "/templates/{}", None),
            ("GET", "/templates/aliases/{}", None),
            ("GET", "/templates/{}/tags", None),
            ("GET", "/templates/{}/tags/count", None),
            ("GET", "/templates/{}/tags/groups", None),
            ("GET", "/templates/{}/tags/default/assignments", None),
            ("GET", f"/templates/{{}}/files/{HASH}", None),
            ("GET", f"/templates/{{}}/builds/{build_id}/status", None),
            ("GET", f"/templates/{{}}/builds/{build_id}/logs", None),
            ("DELETE", f"/templates/{{}}/builds/{build_id}", None),
            ("POST", f"/v2/templates/{{}}/builds/{build_id}", {"fromImage": "x"}),
            ("PATCH", "/v2/templates/{}", {"public": True}),
            ("DELETE", "/templates/{}", None),
        ):
            answers = [call(plane.url, method, path.format(one), body=body, headers=headers) for one in (text, unknown)]
            assert {answer.status for answer in answers} == {404}, (method, path, answers[0].body)
        plain = text.replace("%2F", "/")
        tagged: dict[str, Any] = {"target": plain, "tags": ["x"]}
        assert call(plane.url, "POST", "/v2/sandboxes", body={"templateID": plain}, headers=headers).status == 404
        assert call(plane.url, "POST", "/templates/tags", body=tagged, headers=headers).status == 404
    mine = call(plane.url, "POST", "/v3/templates", body={"name": name}, headers=headers).json()
    assert mine["templateID"] != template_id
    plan = {"fromTemplate": f"default/{name}"}
    start_path = f"/v2/templates/{mine['templateID']}/builds/{mine['buildID']}"
    assert call(plane.url, "POST", start_path, body=plan, headers=headers).status == 404
    listed = call(plane.url, "GET", "/templates", headers=headers).json()
    assert template_id not in {one["templateID"] for one in listed}
    assert ask(plane, "GET", f"/templates/{template_id}").status == 200


def test_public_template_is_for_use_only(plane: ControlPlane) -> None:
    """A published template can be used by id and namespace from another team, and neither looked into nor changed by it."""
    name = new_name()
    template_id, build_id = build(plane, name)
    answer = ask(plane, "PATCH", f"/v2/templates/{template_id}", {"public": True})
    assert TemplateUpdateResponse.from_dict(answer.json()).names == [f"default/{name}"]
    headers = other_team(plane)
    for text in (template_id, f"default/{name}", f"default/{name}:default", f"default/{name}:{build_id}"):
        created = call(plane.url, "POST", "/v2/sandboxes", body={"templateID": text}, headers=headers)
        assert created.status == 201
        assert plane.node.find(created.json()["sandboxID"]).request.template == build_id
    _, newer_id = build(plane, name)  # which takes the tag, and so hides the older one from other teams
    for one, status in ((build_id, 404), (newer_id, 201)):
        created = call(plane.url, "POST", "/v2/sandboxes", body={"templateID": f"default/{name}:{one}"}, headers=headers)
        assert created.status == status
    assert ask(plane, "POST", "/v2/sandboxes", {"templateID": f"{name}:{build_id}"}).status == 201
    found = call(plane.url, "GET", f"/templates/aliases/default%2F{name}", headers=headers)
    assert found.json() == {"templateID": template_id, "public": True}
    assert call(plane.url, "POST", "/v2/sandboxes", body={"templateID": name}, headers=headers).status == 404
    assert call(plane.url, "GET", f"/templates/{template_id}", headers=headers).status == 404
    assert call(plane.url, "PATCH", f"/templates/{template_id}", body={"public": False}, headers=headers).status == 404
    assert call(plane.url, "DELETE", f"/templates/{template_id}", headers=headers).status == 403
    assert ask(plane, "PATCH", f"/templates/{name}", {"public": False}).status == 200
    assert call(plane.url, "DELETE", f"/templates/{template_id}", headers=headers).status == 404
    assert call(plane.url, "POST", "/v2/sandboxes", body={"templateID": template_id}, headers=headers).status == 404


def test_another_teams_snapshots(plane: ControlPlane) -> None:
    """A team cannot snapshot another team's sandbox, nor list, run or delete its snapshots."""
    sandbox_id = create(plane)["sandboxID"]
    made = SnapshotInfo.from_dict(ask(plane, "POST", f"/sandboxes/{sandbox_id}/snapshots", {"name": new_name()}).json())
    headers = other_team(plane)
    assert call(plane.url, "POST", f"/sandboxes/{sandbox_id}/snapshots", body={}, headers=headers).status == 404
    assert call(plane.url, "GET", "/snapshots", headers=headers).json() == []
    assert call(plane.url, "GET", f"/snapshots?sandboxID={sandbox_id}", headers=headers).json() == []
    assert call(plane.url, "POST", "/v2/sandboxes", body={"templateID": made.snapshot_id}, headers=headers).status == 404
    path = "/templates/" + made.snapshot_id.replace("/", "%2F").replace(":", "%3A")
    assert call(plane.url, "DELETE", path, headers=headers).status == 404
    assert ask(plane, "DELETE", path).status == 204


def test_stock_templates_cannot_be_changed(plane: ControlPlane) -> None:
    """All teams see the server's templates, and none changes them."""
    for method, path, body in (
        ("DELETE", "/templates/base", None),
        ("PATCH", "/v2/templates/base", {"public": False}),
        ("POST", "/templates/tags", {"target": "base", "tags": ["x"]}),
        ("POST", "/v3/templates", {"name": "code-interpreter-v1"}),
    ):
        assert ask(plane, method, path, body).status == 403
    sandbox_id = create(plane)["sandboxID"]
    assert ask(plane, "POST", f"/sandboxes/{sandbox_id}/snapshots", {"name": "base"}).status == 403
    assert [one["tag"] for one in ask(plane, "GET", "/templates/base/tags").json()] == ["default"]


# ---- ends ----


def test_deletion(plane: ControlPlane) -> None:
    """A deleted template is gone at once, its name is free, its build under way ends, and the node forgets what it made."""
    name = new_name()
    template_id, build_id = build(plane, name)
    plane.node.builds_run = False
    running = request_build(plane, f"{name}:x")
    start(plane, *running)
    plane.node.builds_run = True
    sandbox_id = create(plane, templateID=name)["sandboxID"]
    refused = ask(plane, "DELETE", f"/templates/{name}")
    assert (refused.status, "sandboxes using it" in refused.json()["message"]) == (400, True)
    assert ask(plane, "DELETE", f"/sandboxes/{sandbox_id}").status == 204
    assert ask(plane, "DELETE", f"/templates/{name}").status == 204
    assert ask(plane, "DELETE", f"/templates/{name}").status == 404
    assert ask(plane, "POST", "/v2/sandboxes", {"templateID": template_id}).status == 404
    deadline = time.monotonic() + 10
    while not {build_id, running[1]} <= set(plane.node.dropped):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert build(plane, name)[0] != template_id


def test_deletion_of_one_tag(plane: ControlPlane) -> None:
    """``name:tag`` deletes only the tag while the template has others, and the template with the last one."""
    name = new_name()
    build(plane, name)
    ask(plane, "POST", "/templates/tags", {"target": name, "tags": ["v1"]})
    assert ask(plane, "DELETE", f"/templates/{name}:none").status == 404
    assert ask(plane, "DELETE", f"/templates/{name}%3Av1").status == 204
    sandbox_id = create(plane, templateID=name)["sandboxID"]
    assert ask(plane, "DELETE", f"/templates/{name}:default").status == 400
    assert ask(plane, "DELETE", f"/sandboxes/{sandbox_id}").status == 204
    assert ask(plane, "DELETE", f"/templates/{name}:default").status == 204
    assert ask(plane, "GET", f"/templates/{name}").status == 404


def test_failed_snapshot_leaves_nothing(plane: ControlPlane) -> None:
    """When the node cannot, the client hears why, and neither snapshot nor template is left."""
    sandbox_id = create(plane)["sandboxID"]
    plane.node.snapshot_fault = RuntimeFailedError("the disk cannot be read")
    try:
        answer = ask(plane, "POST", f"/sandboxes/{sandbox_id}/snapshots", {})
    finally:
        plane.node.snapshot_fault = None
    assert (answer.status, "the disk cannot be read" in answer.json()["message"]) == (500, True)
    assert ask(plane, "GET", f"/snapshots?sandboxID={sandbox_id}").json() == []


@pytest.mark.parametrize("query", ["?limit=0", "?limit=x", "?nextToken=x", "?nextToken=InRleHQi", "?nextToken=LTE="])
def test_bad_pages_of_snapshots(plane: ControlPlane, query: str) -> None:
    """Limits and tokens that are none are refused."""
    assert ask(plane, "GET", f"/snapshots{query}").status == 400
