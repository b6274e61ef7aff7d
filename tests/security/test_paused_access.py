"""Pauses as a means to reach another team's sandbox, or more than a team may have (I5, I6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from framework.control_plane import ControlPlane, control_plane, running_control_plane
from framework.http import call
from framework.requests import ask, create
from framework.template_requests import other_team

__all__ = ["control_plane"]
pytestmark = pytest.mark.root


def test_team_cannot_pause_resume_or_kill_anothers_sandbox(control_plane: ControlPlane) -> None:
    """Each call answers as for an unknown id, whatever the sandbox's state, and changes nothing."""
    headers = other_team(control_plane)
    calls = [("POST", "/pause", {}), ("POST", "/resume", {}), ("POST", "/connect", {"timeout": 9}), ("POST", "/timeout", {"timeout": 0})]
    calls += [("GET", "", {}), ("GET", "/logs", {}), ("GET", "/metrics", {}), ("DELETE", "", {})]
    created = create(control_plane, timeout=600, autoPause=True)["sandboxID"]
    for state in ("running", "paused"):
        for method, rest, body in calls:
            answers = [
                call(control_plane.url, method, f"/sandboxes/{sandbox_id}{rest}", body=body, headers=headers)
                for sandbox_id in (created, "a" * 20)
            ]
            assert [answer.status for answer in answers] == [404, 404]
            assert answers[0].json()["message"].replace(created, "a" * 20) == answers[1].json()["message"]
        assert call(control_plane.url, "GET", "/v2/sandboxes", headers=headers).json() == []
        assert ask(control_plane, "GET", f"/sandboxes/{created}").json()["state"] == state
        ask(control_plane, "POST", f"/sandboxes/{created}/pause")
    assert (control_plane.node.pauses, control_plane.node.resumes) == (1, 0)


def test_team_cannot_have_more_paused_sandboxes_than_its_bound(tmp_path: Path) -> None:
    """Neither by pauses nor by lifetimes that end with one, not even one after the other."""
    with running_control_plane(tmp_path, max_paused_per_team=2) as plane:
        choices: tuple[dict[str, Any], ...] = ({}, {"autoPause": True})
        for fields in choices:
            sandbox_id = create(plane, timeout=600, **fields)["sandboxID"]
            assert ask(plane, "POST", f"/sandboxes/{sandbox_id}/timeout", {"timeout": 0}).status == 204
        first = create(plane)["sandboxID"]
        assert ask(plane, "POST", f"/sandboxes/{first}/pause").status == 204
        assert ask(plane, "POST", "/v2/sandboxes", {"templateID": "base", "autoPause": True}).status == 429
        second = create(plane)["sandboxID"]
        assert ask(plane, "POST", f"/sandboxes/{second}/pause").status == 429
        assert len(ask(plane, "GET", "/v2/sandboxes?state=paused").json()) == 2
