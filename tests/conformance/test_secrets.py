"""Secrets by the official SDKs and by REST: the published statuses and texts, and no answer that has a value."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from e2b import AsyncSecret, Secret, SecretException, SecretNotFoundException

from framework.control_plane import ControlPlane, running_control_plane
from framework.http import Answer, call
from framework.requests import ask

pytestmark = pytest.mark.root
VALUE = "sk-the-value-itself"
JS = Path(__file__).parent / "js"


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two Python SDKs."""
    return str(request.param)


async def done(found: Any) -> Any:
    """The result of a call of either SDK."""
    return await found if inspect.isawaitable(found) else found


async def test_the_life_of_a_secret(control_plane: ControlPlane, kind: str) -> None:
    """Created, read by id and by name in any case, listed, updated with and without metadata, and destroyed once."""
    secret: Any = Secret if kind == "sync" else AsyncSecret
    api = {"api_key": control_plane.api_key, "api_url": control_plane.url}
    made = await done(secret.create(" API_Key-1 ", VALUE, metadata={"a": "b"}, **api))
    assert (made.name, made.version, made.metadata) == ("api_key-1", 1, {"a": "b"})
    assert made.secret_id.startswith("sec_")
    assert len(made.secret_id) == 30
    for selector in (made.secret_id, "api_key-1", "API_KEY-1"):
        assert await done(secret.get_info(selector, **api)) == made
    changed = await done(secret.update("api_key-1", "other", **api))
    assert (changed.version, changed.metadata) == (2, {"a": "b"})
    assert changed.created_at == made.created_at
    assert changed.updated_at > made.updated_at
    cleared = await done(secret.update(made.secret_id, "other", metadata={}, **api))
    assert (cleared.version, cleared.metadata) == (3, {})
    assert await done(secret.exists("api_key-1", **api))
    assert await done(secret.destroy("api_key-1", **api))
    assert not await done(secret.exists(made.secret_id, **api))
    assert not await done(secret.destroy(made.secret_id, **api))
    with pytest.raises(SecretNotFoundException):
        await done(secret.get_info("api_key-1", **api))
    with pytest.raises(SecretNotFoundException):
        await done(secret.update("api_key-1", "x", **api))
    again = await done(secret.create("api_key-1", VALUE, **api))
    assert (again.secret_id != made.secret_id, again.version) == (True, 1)


async def test_pages(control_plane: ControlPlane, kind: str) -> None:
    """A listing has every secret once, in pages of the size that is asked for."""
    secret: Any = Secret if kind == "sync" else AsyncSecret
    api = {"api_key": control_plane.api_key, "api_url": control_plane.url}
    names = [(await done(secret.create(f"s{number}", VALUE, **api))).name for number in range(7)]
    pages, seen = secret.list(limit=3, **api), []
    while pages.has_next:
        page = await done(pages.next_items())
        assert len(page) in (3, 1)
        seen += [one.name for one in page]
    assert sorted(seen) == names
    with pytest.raises(SecretException, match="400: limit must be between 1 and 100"):
        await done(secret.list(limit=101, **api).next_items())


@pytest.mark.skipif(
    shutil.which("node") is None or not (JS / "node_modules" / "e2b").is_dir(), reason="needs Node and `npm ci` in tests/conformance/js"
)
def test_javascript(control_plane: ControlPlane) -> None:
    """The JavaScript SDK does the same."""
    ran = subprocess.run(
        ["node", "secrets.mjs"], cwd=JS, env=control_plane.environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "made": ["key", 1, {"a": "b"}],
        "found": "key",
        "changed": 2,
        "listed": ["key"],
        "duplicate": "SecretError",
        "destroyed": [True, False],
        "exists": [True, False],
        "missing": "SecretNotFoundError",
    }


def post(plane: ControlPlane, path: str = "/secrets", **body: Any) -> Answer:
    """A creation or an update."""
    return ask(plane, "POST", path, {"name": "key", "value": VALUE, **body})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One control plane for tests that leave nothing."""
    with running_control_plane(tmp_path_factory.mktemp("plane"), max_secrets_per_team=3) as plane:
        yield plane


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "a.b"},
        {"name": "../key"},
        {"name": "ä"},
        {"name": "x" * 129},
        {"name": "sec_key"},
        {"name": "SEC_key"},
        {"name": "${e2b.secrets.key}"},
        {"value": ""},
        {"value": "a\nb"},
        {"value": "a\r"},
        {"value": " a"},
        {"metadata": {"a": 1}},
        {"metadata": {"x" * 129: ""}},
        {"metadata": {"x": "y" * 1025}},
        {"metadata": {str(number): "" for number in range(33)}},
        {"metadata": {str(number): "x" * 1000 for number in range(9)}},
    ],
)
def test_wrong_secrets(shared: ControlPlane, body: dict[str, Any]) -> None:
    """A wrong name, value or metadata is 400 in the published words."""
    answer = post(shared, **body)
    assert (answer.status, answer.json()["message"][:23]) == (400, "Invalid secrets request")
    assert VALUE.encode() not in answer.body
    assert ask(shared, "GET", "/secrets").json() == []


def test_texts_and_statuses(shared: ControlPlane) -> None:
    """Each refusal has its status and its text, and every answer says that no cache may keep it."""
    made = post(shared)
    assert made.status == 201
    duplicate = post(shared, name="KEY")
    assert (duplicate.status, duplicate.json()["message"][:46]) == (409, "Secret cannot be modified in its current state")
    answers = {
        "unknown": ask(shared, "GET", "/secrets/nothing"),
        "malformed": ask(shared, "GET", "/secrets/sec_1"),
        "other": ask(shared, "GET", f"/secrets/sec_{'0' * 26}"),
        "no key": call(shared.url, "GET", "/secrets"),
        "deleted": ask(shared, "DELETE", f"/secrets/{made.json()['secretID']}"),
        "again": ask(shared, "DELETE", "/secrets/key"),
    }
    assert {name: answer.status for name, answer in answers.items()} == {
        "unknown": 404,
        "malformed": 400,
        "other": 404,
        "no key": 401,
        "deleted": 204,
        "again": 404,
    }
    assert answers["unknown"].json()["message"] == "Secret not found"
    for answer in (made, duplicate, *answers.values()):
        assert answer.headers["Cache-Control"] == "no-store"


def test_a_team_has_a_limit(shared: ControlPlane) -> None:
    """One secret too many is 409 with a code of its own."""
    for number in range(3):
        assert post(shared, name=f"k{number}").status == 201
    refused = post(shared, name="k3")
    assert (refused.status, refused.json()["error_code"]) == (409, "secret_limit_reached")
    for number in range(3):
        assert ask(shared, "DELETE", f"/secrets/k{number}").status == 204
