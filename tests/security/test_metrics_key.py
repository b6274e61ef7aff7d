"""The metrics of the whole server are the operator's: the key of a team does not open them, and their key opens nothing else."""

from __future__ import annotations

import re

from cloister.api.routes import NOT_BUILT, ROUTES
from cloister.control.keys import Keys
from cloister.model.team import KeyScope
from framework.control_plane import ControlPlane, control_plane
from framework.http import call
from framework.requests import ask, create

__all__ = ["control_plane"]

METRICS = "/metrics"
EVERY_ROUTE = [(method, path) for method, path, _ in (*ROUTES, *NOT_BUILT)]
"""All routes that need a key of a team."""


def bearer(key: str) -> dict[str, str]:
    """The header in which Prometheus sends its credential."""
    return {"Authorization": f"Bearer {key}"}


def test_team_cannot_read_the_servers_metrics(control_plane: ControlPlane) -> None:
    """A team's key is refused with the remedy, in either header; no key and a wrong one are told apart from it."""
    for headers in ({"X-API-KEY": control_plane.api_key}, bearer(control_plane.api_key)):
        answer = call(control_plane.url, "GET", METRICS, headers=headers)
        assert answer.status == 403
        assert b"cloister_sandboxes" not in answer.body
        assert "cloister key create --metrics" in answer.json()["message"]
    assert call(control_plane.url, "GET", METRICS).status == 401
    assert call(control_plane.url, "GET", METRICS, headers=bearer("clm_" + "0" * 40)).status == 401


def test_metrics_key_cannot_open_another_route(control_plane: ControlPlane) -> None:
    """Every route that serves a team answers a metrics key as it answers a key that is none, and does nothing."""
    key = control_plane.metrics_key()
    sandbox_id = create(control_plane)["sandboxID"]
    for method, route in EVERY_ROUTE:
        path = route.replace("{sandbox_id}", sandbox_id).replace("{template_id}", "base")
        path = re.sub(r"\{[a-z_]+\}", "a" * 20, path)
        for headers in ({"X-API-KEY": key}, bearer(key)):
            answer = call(control_plane.url, "POST" if method == "*" else method, path, body={}, headers=headers)
            assert answer.status == 401, (method, route, answer.body)
    assert sandbox_id in control_plane.node.sandboxes


def test_revoked_metrics_key_cannot_read_metrics(control_plane: ControlPlane) -> None:
    """A metrics key is listed with its scope, and is refused from the request after its revocation on."""
    key = control_plane.metrics_key()
    assert call(control_plane.url, "GET", METRICS, headers=bearer(key)).status == 200
    (key_id,) = [made.key_id for made, _ in control_plane.with_keys(Keys.list) if made.scope is KeyScope.METRICS]
    control_plane.with_keys(lambda keys: keys.revoke(key_id))
    assert call(control_plane.url, "GET", METRICS, headers=bearer(key)).status == 401
    assert ask(control_plane, "GET", "/sandboxes").status == 200
