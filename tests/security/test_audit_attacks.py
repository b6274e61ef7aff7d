"""Attacks on the audit log: on what it shows, on what gets into it, and on the commands that write it as root."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.api.audit import ACTIONS
from cloister.api.routes import ROUTES
from cloister.cli.recording import recorded
from cloister.config.settings import Settings
from cloister.model.team import KeyScope
from framework.control_plane import ControlPlane, running_control_plane
from framework.http import call
from framework.requests import ask, records

pytestmark = pytest.mark.root
CANARY = "canary-of-a-secret"
_API_UID = 65_534


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane for all tests here."""
    with running_control_plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


def test_a_team_cannot_see_the_records_of_another(plane: ControlPlane) -> None:
    """A team sees its own, the operator's key all; without a key, or by another team's name, there is nothing to see."""
    _, other = plane.with_keys(lambda keys: keys.create("other", "k"))
    ask(plane, "DELETE", "/sandboxes/own")
    call(plane.url, "DELETE", "/sandboxes/others", headers={"X-API-KEY": other})
    own = call(plane.url, "GET", "/audit", headers={"X-API-KEY": other}).json()
    assert [one["objectID"] for one in own] == ["others"]
    assert not records(plane, objectID="others")
    assert ask(plane, "GET", f"/audit?team={own[0]['teamID']}").status == 403
    _, admin = plane.with_keys(lambda keys: keys.create_for_operator(KeyScope.ADMIN, "a"))
    everything = call(plane.url, "GET", "/audit?limit=100", headers={"X-Admin-Token": admin}).json()
    assert len({one["teamID"] for one in everything}) >= 2
    for headers in ({"Authorization": f"Bearer {plane.metrics_key()}"}, {"X-API-KEY": plane.metrics_key()}):
        assert call(plane.url, "GET", "/audit?limit=100", headers=headers).status == 401
    assert call(plane.url, "GET", "/audit").status == 401
    assert call(plane.url, "GET", "/audit", headers={"X-API-KEY": "e2b_" + "0" * 40}).status == 401


def _requests() -> list[tuple[str, str, Any]]:
    """A request for each route that changes something, with the canary wherever a client may put a secret."""
    body = {
        "templateID": "base",
        "envVars": {"KEY": CANARY},
        "metadata": {"key": CANARY},
        "name": "a-secret",
        "value": CANARY,
        "names": [CANARY],
        "target": CANARY,
        "tags": [CANARY],
        "startCmd": CANARY,
        "steps": [{"type": "RUN", "args": [CANARY]}],
        "network": {"rules": {"example.com": [{"transform": {"headers": {"Authorization": CANARY}}}]}},
    }
    named = {"sandbox_id": "x" * 20, "template_id": "base", "build_id": "0" * 8, "secret_id": "none", "tag": "t"}
    return [
        (method, path.format_map({**dict.fromkeys(_names(path), "none"), **named}), body) for method, path, _ in ROUTES if method != "GET"
    ]


def _names(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def test_a_client_cannot_bring_a_secret_into_the_log(plane: ControlPlane) -> None:
    """Nothing of a body, a header, a query or a key is in a record of any route; and each request has a record."""
    before = records(plane, limit="1")[0]["number"] if records(plane, limit="1") else 0
    requests = _requests()
    for method, path, body in requests:
        ask(plane, method, f"{path}?token={CANARY}", body, User_Agent=CANARY, Idempotency_Key=CANARY, X_Forwarded_For=CANARY)
    found = records(plane, limit="100")
    assert found[0]["number"] - before == len(requests)
    assert {one["action"] for one in found} >= {ACTIONS[method, path] for method, path, _ in ROUTES if (method, path) in ACTIONS}
    for file in (plane.settings.data_dir / "api" / "audit").rglob("*"):
        if file.is_file():
            text = file.read_text()
            assert CANARY not in text
            assert plane.api_key not in text


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter, as a data directory is."""
    path = Path(tempfile.mkdtemp(prefix="cloister-audit-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_the_api_process_cannot_make_root_write_elsewhere(open_directory: Path) -> None:
    """Commands of root write records with the rights of the api process's user: links that it puts there lead nowhere else."""
    victim = open_directory / "victim"
    victim.mkdir(0o700)
    api = open_directory / "api"
    api.mkdir(0o700)
    os.chown(api, _API_UID, _API_UID)
    (api / "audit").symlink_to(victim)
    with recorded(Settings(data_dir=open_directory), "key.create"):
        pass
    assert list(victim.iterdir()) == []
    (api / "audit").unlink()
    with recorded(Settings(data_dir=open_directory), "key.create"):
        pass
    made = [path for path in api.rglob("*") if path.is_file()]
    assert {path.stat().st_uid for path in made} == {_API_UID}
    assert (len(made), os.geteuid()) == (2, 0)
