"""The server never ignores a restriction of a request: unknown restrictions, and builds that the team may not name."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from framework.control_plane import ControlPlane
from framework.http import call
from framework.requests import PORT, ask, create, echo, to
from framework.template_requests import build, building_plane, new_name, other_team

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane whose builds run."""
    with building_plane(tmp_path_factory.mktemp("taken") / "data") as plane:
        yield plane


def test_client_cannot_get_more_than_a_restriction_says(plane: ControlPlane) -> None:
    """A restriction that this server does not know is refused by name, wherever it is, and no sandbox is made."""
    before = len(plane.node.sandboxes)
    for fields, name in (
        ({"denyPackages": ["x"]}, "denyPackages"),
        ({"allowShell": False}, "allowShell"),
        ({"max_cpu_seconds": 5}, "max_cpu_seconds"),
        ({"offline": True}, "offline"),
        ({"stopAfter": 60}, "stopAfter"),
        ({"network": {"onlyPeers": True}}, "network.onlyPeers"),
        ({"autoResume": {"afterHours": False}}, "autoResume.afterHours"),
    ):
        answer = ask(plane, "POST", "/v2/sandboxes", {"templateID": "base", **fields})
        assert (answer.status, f"unknown field: {name} " in answer.json()["message"]) == (400, True)
    assert len(plane.node.sandboxes) == before


def test_team_cannot_run_a_build_that_another_has_replaced(plane: ControlPlane) -> None:
    """Of another team's public template only what its tags mean can be run, not a build that was taken back; a private one is not told from none."""
    name = new_name()
    template_id, old = build(plane, name)
    _, new = build(plane, name)
    headers = other_team(plane)

    def status_and_text(text: str) -> tuple[int, str]:
        answer = call(plane.url, "POST", "/v2/sandboxes", body={"templateID": text}, headers=headers)
        return answer.status, str(answer.json().get("message", "")).replace(text, "T")

    for public in (True, False):
        ask(plane, "PATCH", f"/v2/templates/{template_id}", {"public": public})
        for reference in (template_id, f"default/{name}"):
            assert status_and_text(f"{reference}:{new}")[0] == (201 if public else 404)
            hidden = status_and_text(f"{reference}:{old}")
            unknown = uuid.uuid4()
            other = reference if public else reference.replace(name, new_name()).replace(template_id, "a" * 20)
            absent = status_and_text(f"{other}:{unknown}")
            assert hidden[0] == absent[0] == 404
            assert hidden[1].replace(old, "B") == absent[1].replace(str(unknown), "B")


def test_program_inside_cannot_see_an_api_key(plane: ControlPlane) -> None:
    """The agent's ports get no API key, which some SDKs send to both the API and the agent; a program of the client's own gets what it is sent."""
    sandbox = plane.node.find(create(plane)["sandboxID"])
    sandbox.agent = echo
    plane.run(lambda: sandbox.serve(PORT, echo))
    for port, is_passed in ((49983, False), (PORT, True)):
        headers = {**to(sandbox.record.sandbox_id, port), "X-API-KEY": "e2b_secret", "x-other": "1"}
        seen = call(plane.url, "GET", "/health", headers=headers).json()["headers"]
        assert any(value == "1" for _, value in seen)
        assert any(value == "e2b_secret" for _, value in seen) is is_passed
