"""Lifecycle events by REST and by webhook, in the published forms, with the receiver of the documentation."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.control_plane import ControlPlane, running_control_plane
from framework.requests import ask, create
from framework.waiting import eventually
from framework.webhook_receiver import Received, receiver

pytestmark = pytest.mark.root
SECRET = "a-secret-that-signs"
TYPES = [f"sandbox.lifecycle.{word}" for word in ("created", "updated", "paused", "resumed", "checkpointed", "killed")]
HOWTO = Path(__file__).parents[2] / "docs/howto/audit-and-events.md"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane whose operator lets webhooks reach loopback."""
    with running_control_plane(tmp_path_factory.mktemp("plane"), webhook_allow_private=("127.0.0.0/8",)) as running:
        yield running


def registered(plane: ControlPlane, url: str, *types: str) -> dict[str, Any]:
    """A new webhook."""
    body = {"name": "n", "url": url, "enabled": True, "events": list(types or TYPES), "signatureSecret": SECRET}
    answer = ask(plane, "POST", "/events/webhooks", body)
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json()
    return made


def is_signed(one: Received) -> bool:
    """As the published verifier in Python decides."""
    digest = hashlib.sha256(SECRET.encode() + one.body).digest()
    return base64.b64encode(digest).decode().rstrip("=") == one.headers["e2b-signature"]


def test_a_life_of_a_sandbox(plane: ControlPlane) -> None:
    """Each change is one event, in order, the same by REST and by webhook, signed."""
    with receiver() as hook:
        made = registered(plane, hook.url)
        sandbox_id = create(plane, metadata={"a": "b"})["sandboxID"]
        path = f"/sandboxes/{sandbox_id}"
        ask(plane, "POST", f"{path}/timeout", {"timeout": 500})
        ask(plane, "PUT", f"{path}/network", {"denyOut": ["192.0.2.0/24"]})
        ask(plane, "POST", f"{path}/snapshots", {})
        ask(plane, "POST", f"{path}/pause", {})
        ask(plane, "POST", f"{path}/resume", {"timeout": 300})
        ask(plane, "DELETE", path)
        words = ["created", "updated", "updated", "checkpointed", "paused", "resumed", "killed"]
        eventually(lambda: len(hook.received) == len(words))
        assert hook.types == words
        assert all(is_signed(one) for one in hook.received)
        first = hook.received[0]
        assert (first.headers["e2b-webhook-id"], first.headers["e2b-signature-version"]) == (made["id"], "v1")
        assert len({one.headers["e2b-delivery-id"] for one in hook.received}) == len(words)
        assert ask(plane, "DELETE", f"/events/webhooks/{made['id']}").status == 200
    events = ask(plane, "GET", f"/events/sandboxes/{sandbox_id}?orderAsc=true").json()
    assert [one["id"] for one in events] == [one.event["id"] for one in hook.received]
    for rest, pushed in zip(events, (one.event for one in hook.received), strict=True):
        assert {re.sub(r"[A-Z]", lambda match: "_" + match[0].lower(), name): value for name, value in rest.items()} == {
            name: value for name, value in pushed.items() if name not in ("event_category", "event_label")
        }
        assert (rest["sandboxId"], rest["version"], rest["eventData"]["sandbox_metadata"]) == (sandbox_id, "v2", {"a": "b"})
    assert set(events[4]["eventData"]["execution"]) == {"started_at", "vcpu_count", "memory_mb", "execution_time"}
    assert events[-1]["eventData"]["reason"] == "killed"
    assert len({one["sandboxExecutionId"] for one in events[:5]} | {events[0]["sandboxExecutionId"]}) == 1
    assert events[5]["sandboxExecutionId"] == events[6]["sandboxExecutionId"] != events[0]["sandboxExecutionId"]


def test_pages_and_filters(plane: ControlPlane) -> None:
    """The latest come first; offset, limit, order and types work, and wrong ones are named."""
    sandbox_id = create(plane)["sandboxID"]
    for timeout in (100, 200, 300):
        ask(plane, "POST", f"/sandboxes/{sandbox_id}/timeout", {"timeout": timeout})
    path = f"/events/sandboxes/{sandbox_id}"
    every = ask(plane, "GET", path).json()
    assert [one["type"] for one in every] == [*["sandbox.lifecycle.updated"] * 3, "sandbox.lifecycle.created"]
    assert ask(plane, "GET", f"{path}?offset=1&limit=2").json() == every[1:3]
    assert ask(plane, "GET", f"{path}?orderAsc=true").json() == every[::-1]
    assert ask(plane, "GET", f"{path}?types=sandbox.lifecycle.created&types=sandbox.lifecycle.killed").json() == every[3:]
    assert ask(plane, "GET", "/events/sandboxes?limit=1").json() == every[:1]
    for wrong in ("types=x", "limit=101", "limit=0", "offset=-1", "orderAsc=yes"):
        assert ask(plane, "GET", f"{path}?{wrong}").status == 400, wrong


def test_the_life_of_a_webhook(plane: ControlPlane) -> None:
    """Created, read, listed, changed field by field, and deleted; the secret is in no answer, and wrong fields are named."""
    made = registered(plane, "https://a.example/x", TYPES[0])
    path = f"/events/webhooks/{made['id']}"
    assert set(made) == {"id", "teamId", "name", "createdAt", "enabled", "url", "events"}
    assert ask(plane, "GET", path).json() == made
    assert made in ask(plane, "GET", "/events/webhooks").json()
    changed = ask(plane, "PATCH", path, {"url": "https://b.example/", "enabled": False, "events": TYPES[1:3]})
    assert (changed.status, changed.json()) == (200, {**made, "url": "https://b.example/", "enabled": False, "events": TYPES[1:3]})
    whole = {"name": "n", "url": "https://a.example", "events": TYPES, "signatureSecret": SECRET}
    wrong: dict[str, Any]
    for wrong in ({"events": []}, {"events": ["create"]}, {"name": ""}, {"name": "a\nb"}, {"url": "x"}, {"signatureSecret": ""}):
        assert ask(plane, "PATCH", path, wrong).status == 400, wrong
        assert ask(plane, "POST", "/events/webhooks", {**whole, **wrong}).status == 400, wrong
    for missing in whole:
        assert ask(plane, "POST", "/events/webhooks", {name: whole[name] for name in whole if name != missing}).status == 400
    assert ask(plane, "DELETE", path).status == 200
    assert [ask(plane, method, path, body).status for method, body in (("GET", None), ("PATCH", {}), ("DELETE", None))] == [404] * 3
    ids = [registered(plane, "https://a.example/x")["id"] for _ in range(plane.settings.max_webhooks_per_team)]
    assert ask(plane, "POST", "/events/webhooks", whole).status == 429
    assert all(ask(plane, "DELETE", f"/events/webhooks/{one}").status == 200 for one in ids)


def test_what_could_not_be_delivered_is_listed(plane: ControlPlane) -> None:
    """A delivery that failed says why, and waits for its next attempt."""
    with receiver() as hook:
        hook.status = 500
        made = registered(plane, hook.url, TYPES[0])
        sandbox_id = create(plane)["sandboxID"]
        path = f"/events/webhooks/{made['id']}/deliveries"
        (waiting,) = eventually(lambda: [one for one in ask(plane, "GET", f"{path}?state=waiting").json() if one["attempts"]])
    assert (waiting["status"], waiting["error"], waiting["sandboxId"]) == (500, "the receiver answered 500", sandbox_id)
    assert waiting["nextAttemptAt"] > waiting["timestamp"]
    assert ask(plane, "GET", f"{path}?state=failed").json() == []
    assert ask(plane, "POST", f"{path}/{waiting['id']}").status == 404
    assert ask(plane, "POST", f"{path}/x").status == 404
    assert ask(plane, "GET", f"{path}?state=x").status == 400
    ask(plane, "DELETE", f"/events/webhooks/{made['id']}")


def test_the_receiver_of_the_documentation(plane: ControlPlane, tmp_path: Path) -> None:
    """The program in docs/howto/audit-and-events.md accepts deliveries, once each, and refuses forged ones."""
    (text,) = re.findall(r"^    # receiver\.py\n((?:    .*\n|\n)+)", HOWTO.read_text(), re.MULTILINE)
    file = tmp_path / "receiver.py"
    file.write_text("".join(line.removeprefix("    ") for line in text.splitlines(keepends=True)))
    spec = importlib.util.spec_from_file_location("receiver", file)
    assert spec is not None
    assert spec.loader is not None
    program: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    program.SECRET = SECRET.encode()
    server = program.ThreadingHTTPServer(("127.0.0.1", 0), program.Receiver)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        made = registered(plane, url, TYPES[0])
        create(plane)
        eventually(lambda: program.seen)
        eventually(lambda: not ask(plane, "GET", f"/events/webhooks/{made['id']}/deliveries").json())
        ask(plane, "DELETE", f"/events/webhooks/{made['id']}")
        assert not program.is_genuine(json.dumps({"id": "x"}).encode(), "forged")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
