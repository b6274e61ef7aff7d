"""Every text that a client can have the server keep has a bound, and is a text that can be kept."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from cloister.api.bounds import BOUNDS
from framework.control_plane import ControlPlane, running_control_plane
from framework.http import Answer
from framework.requests import ask, create

_BUILD = "/v2/templates/x/builds/y"
_AMAZON = "1.dkr.ecr.us-east-1.amazonaws.com/x"
_REGISTRY = {"type": "registry", "username": "u", "password": "p"}
_AWS = {"type": "aws", "awsRegion": "r", "awsAccessKeyId": "k", "awsSecretAccessKey": "s"}
_MOUNT = {"name": "v", "path": "/v"}
_JOIN = {"tokenID": "t", "nodeID": "n", "address": "10.0.0.1:1", "request": "r", "nonce": "n", "mark": "m"}
_STEP = {"type": "COPY", "args": ["a", "b"], "filesHash": "0" * 64}
_NETWORK_LISTS = ("allowOut", "denyOut", "dnsServers")
_PROXY = {"address": "198.51.100.9:1080", "username": "u", "password": "p"}
_TLS_PROXY = {"address": "198.51.100.9:1080", "tls": {"enabled": True}}
_WEBHOOK = {"name": "x", "url": "https://hooks.example.com/", "events": ["sandbox.lifecycle.created"], "signatureSecret": "s" * 40}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "templateID": ("/v2/sandboxes", {}),
    "metadata": ("/v2/sandboxes", {"templateID": "base"}),
    "envVars": ("/v2/sandboxes", {"templateID": "base"}),
    "network.maskRequestHost": ("/v2/sandboxes", {"templateID": "base", "network": {}}),
    **{f"network.{name}": ("/v2/sandboxes", {"templateID": "base", "network": {}}) for name in (*_NETWORK_LISTS, "httpsPorts")},
    **{f"network.egressProxy.{name}": ("/v2/sandboxes", {"templateID": "base", "network": {"egressProxy": _PROXY}}) for name in _PROXY},
    "network.egressProxy.tls.serverName": ("/v2/sandboxes", {"templateID": "base", "network": {"egressProxy": _TLS_PROXY}}),
    "network.egressProxy.tls.caCert": ("/v2/sandboxes", {"templateID": "base", "network": {"egressProxy": _TLS_PROXY}}),
    "volumeMounts": ("/v2/sandboxes", {"templateID": "base"}),
    **{f"volumeMounts[].{name}": ("/v2/sandboxes", {"templateID": "base", "volumeMounts": [_MOUNT]}) for name in _MOUNT},
    "key": ("/console/session", {}),
    "status": ("/nodes/node_0000000000000000", {}),
    **{name: ("/cluster/join", {**_JOIN, "expiresAt": 1}) for name in _JOIN},
    "name": ("/v3/templates", {}),
    "value": ("/secrets", {"name": "x"}),
    "expiresAt": ("/api-keys", {"name": "x"}),
    **{name: ("/events/webhooks", {key: value for key, value in _WEBHOOK.items() if key != name}) for name in _WEBHOOK if name != "name"},
    "alias": ("/v3/templates", {}),
    "teamID": ("/v3/templates", {"name": "x"}),
    "tags": ("/v3/templates", {"name": "x"}),
    "target": ("/templates/tags", {"tags": ["a"]}),
    "fromImage": (_BUILD, {}),
    "fromTemplate": (_BUILD, {}),
    "startCmd": (_BUILD, {"fromTemplate": "base"}),
    "readyCmd": (_BUILD, {"fromTemplate": "base"}),
    "steps": (_BUILD, {"fromTemplate": "base"}),
    **{f"fromImageRegistry.{name}": (_BUILD, {"fromImage": "x", "fromImageRegistry": _REGISTRY}) for name in _REGISTRY},
    **{f"fromImageRegistry.{name}": (_BUILD, {"fromImage": _AMAZON, "fromImageRegistry": _AWS}) for name in _AWS if name != "type"},
    "fromImageRegistry.serviceAccountJson": (_BUILD, {"fromImage": "x", "fromImageRegistry": {"type": "gcp"}}),
    **{f"steps[].{name}": (_BUILD, {"fromTemplate": "base", "steps": [_STEP]}) for name in _STEP},
}
"""How each field of the table is sent: a route, and a body that lacks only the field."""
LISTS, OBJECTS = {"tags", "events", "steps[].args", *(f"network.{name}" for name in _NETWORK_LISTS)}, {"metadata", "envVars"}
NO_TEXTS = {"steps", "volumeMounts", "network.httpsPorts"}
"""Lists of other values than texts."""
TEXTS = set(BOUNDS) - NO_TEXTS


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One control plane for all of these."""
    with running_control_plane(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


def send(plane: ControlPlane, field: str, value: Any) -> Answer:
    """A request whose ``field`` is ``value``."""
    path, body = copy.deepcopy(WAYS[field])
    part: Any = body
    *outer, name = field.replace("[]", "").split(".")
    for one in outer:
        part = part[one][0] if one in NO_TEXTS else part[one]
    part[name] = value
    return ask(plane, "POST", path, json.dumps(body).encode(), **({"X_API_KEY": plane.admin_key} if path.startswith("/nodes/") else {}))


def holding(field: str, text: str) -> Any:
    """A value of the field's kind that holds ``text``, to the byte."""
    if field in OBJECTS:
        return {text[:1]: text[1:]}
    return [text, "b"] if field in LISTS else text


def told(answer: Answer, field: str) -> str:
    """The refusal, which names the field."""
    message: str = answer.json()["message"]
    assert answer.status == 400, (field, answer.body)
    assert message.startswith(field.replace("[]", "[1]")), (field, message)
    return message


def test_the_table_is_tried_whole() -> None:
    """No field of the table is left out here."""
    assert set(WAYS) == set(BOUNDS)


@pytest.mark.parametrize("field", sorted(TEXTS))
def test_client_cannot_keep_a_text_without_bound(shared: ControlPlane, field: str) -> None:
    """A byte more than the bound is refused by name, with the size and the bound; the bound itself is not refused for its size."""
    most = BOUNDS[field].size
    message = told(send(shared, field, holding(field, "x" * (most + 1))), field)
    assert message.endswith(f"has {most + 1} bytes; it may have at most {most}")
    assert b"may have at most" not in send(shared, field, holding(field, "x" * most)).body
    assert "may have at most" in told(send(shared, field, holding(field, "x" + "é" * ((most + 1) // 2))), field)


@pytest.mark.parametrize("field", sorted(LISTS | OBJECTS | NO_TEXTS))
def test_client_cannot_keep_entries_without_bound(shared: ControlPlane, field: str) -> None:
    """One entry more than the bound is refused, however small the entries are."""
    count = BOUNDS[field].entries + 1
    value = {str(number): "" for number in range(count)} if field in OBJECTS else [""] * count
    assert told(send(shared, field, value), field).endswith(f"has {count} entries; it may have at most {count - 1}")


@pytest.mark.parametrize("field", sorted(TEXTS))
@pytest.mark.parametrize(("text", "why"), [("a\0b", "NUL"), ("a\ud800b", "surrogate")])
def test_client_cannot_keep_what_is_no_text(shared: ControlPlane, field: str, text: str, why: str) -> None:
    """A NUL, which ends texts in files and system calls, and half of a surrogate pair, which no UTF-8 holds, are refused by name."""
    assert why in told(send(shared, field, holding(field, text)), field)


def test_client_cannot_have_errors_as_large_as_its_requests(shared: ControlPlane) -> None:
    """An error quotes little of a request."""
    long = "x" * 100_000
    for body in (
        {"templateID": "base", "network": {long: 1}},
        {"templateID": "base", "metadata": {long: 1}},
        {"templateID": "base", "envVars": {f"{long}=": ""}},
    ):
        answer = ask(shared, "POST", "/v2/sandboxes", body)
        assert answer.status == 400
        assert len(answer.body) < 1000
    answer = ask(shared, "GET", "/" + "x" * 60_000)
    assert answer.status == 404
    assert len(answer.body) < 1000


def test_what_is_within_the_bounds_is_kept_whole(shared: ControlPlane) -> None:
    """Metadata of 64 KiB, in any language, comes back as it went."""
    metadata = {"größe": "🙂" * 16_000, "empty": ""}
    sandbox_id = create(shared, metadata=metadata)["sandboxID"]
    assert ask(shared, "GET", f"/sandboxes/{sandbox_id}").json()["metadata"] == metadata
