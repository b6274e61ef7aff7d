"""Real answers of a server fit the schemas of docs/openapi.yaml, in which this test allows no field that is not declared."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from jsonschema import Draft202012Validator

from framework.http import call
from framework.server import Server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]

DOCUMENT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "docs" / "openapi.yaml").read_text(encoding="utf-8"))
OPERATIONS = {one["operationId"]: (method.upper(), path, one) for path, methods in DOCUMENT["paths"].items() for method, one in methods.items()}
_PLAIN = {"readFile", "packDirectory", "getHealth", "getServerMetrics", "getConsole", "getConsolePage", "getConsoleFile"}
"""Answers that are no JSON; other tests read them."""
NOT_TRIED = _PLAIN | {
    "cancelBuild", "upload", "sendAgain", "logIn", "getSession", "logOut", "unpackDirectory", "uploadPart", "finishUpload",
    "abandonUpload", "uploadOffset", "createSandboxV1", "requestBuildV2",
    "listNodes", "getNode", "changeNode", "removeNode", "joinCluster",
}  # fmt: skip
"""Operations that other tests call, mostly ones without an answer or with that of a sister. Those of nodes need a cluster."""


def _closed() -> dict[str, Any]:
    """The schemas without room for other fields. Those that extend another are made one object first."""
    schemas = DOCUMENT["components"]["schemas"]

    def whole(name: str) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        required: list[str] = []
        for part in schemas[name].get("allOf", [schemas[name]]):
            one = whole(part["$ref"].rpartition("/")[2]) if "$ref" in part else part
            properties.update(one.get("properties", {}))
            required += one.get("required", [])
        return {"type": "object", "properties": properties, "required": required, **({"additionalProperties": False} if properties else {})}

    return {name: whole(name) for name in schemas}


class Checked:
    """Calls operations by name and checks each answer."""

    def __init__(self, server: Server, admin_key: str) -> None:
        self._server, self._admin_key, self._schemas = server, admin_key, _closed()
        self.called: set[str] = set()

    def __call__(self, operation_id: str, body: Any = None, *, query: dict[str, Any] | None = None, token: str = "", **names: str) -> Any:
        """The answer's JSON; None without a body."""
        method, path, one = OPERATIONS[operation_id]
        headers = {"X-API-KEY": self._admin_key if path.startswith("/admin") else self._server.api_key}
        if token:
            headers = {"Authorization": f"Bearer {token}"}
        target = path.format(**names) + (f"?{urlencode(query)}" if query else "")
        answer = call(self._server.url, method, target, body=body, headers=headers)
        shown = f"{operation_id}: {answer.status} {answer.body[:500]!r}"
        assert str(answer.status) in one["responses"], shown
        self.called.add(operation_id)
        content = one["responses"][str(answer.status)].get("content", {})
        if not content:
            assert answer.body == b"", shown
            return None
        self.check(content["application/json"]["schema"], answer.json())
        return answer.json()

    def check(self, schema: dict[str, Any], value: Any) -> None:
        """Raises: ValidationError."""
        Draft202012Validator({**schema, "components": {"schemas": self._schemas}}).validate(value)


@pytest.fixture
def checked(server: Server) -> Checked:
    """Of the shared server, with a key for the operator."""
    admin_key = server.cli("key", "create", "--admin", "openapi").stdout.split()[-1]
    return Checked(server, admin_key)


def _sandboxes(checked: Checked) -> None:
    made = checked("createSandbox", {"templateID": "base", "timeout": 120, "metadata": {"a": "b"}})
    one = made["sandboxID"]
    for name in ("listSandboxes", "listRunningSandboxes", "adminListSandboxes", "adminRunningCounts"):
        assert checked(name)
    checked("getSandbox", sandbox_id=one)
    eventually(lambda: checked("getMetrics", sandbox_id=one))
    assert checked("getMetricsOfMany", query={"sandbox_ids": one})["sandboxes"]
    assert checked("getLogs", sandbox_id=one)["logs"]
    assert checked("getLogsV1", sandbox_id=one)["logs"]
    checked("listConnections", sandbox_id=one)
    checked("setTimeout", {"timeout": 100}, sandbox_id=one)
    checked("refreshSandbox", {"duration": 100}, sandbox_id=one)
    checked("changeNetwork", {"denyOut": ["192.0.2.0/24"]}, sandbox_id=one)
    checked("connectSandboxV1", {"timeout": 100}, sandbox_id=one)
    checked("pauseSandbox", {"memory": True}, sandbox_id=one)
    assert checked("getSandbox", sandbox_id=one)["pauseMode"] == "full"
    checked("resumeSandbox", {"timeout": 100}, sandbox_id=one)
    checked("connectSandbox", {"timeout": 100}, sandbox_id=one)
    copies = checked("forkSandbox", {"count": 1, "timeout": 60, "memory": False}, sandbox_id=one)
    snapshot = checked("createSnapshot", {"memory": False}, sandbox_id=one)
    assert checked("listSnapshots", query={"sandboxID": one})
    checked("deleteTemplate", template_id=snapshot["snapshotID"].partition(":")[0])
    assert checked("listEvents")
    assert checked("listEventsOfSandbox", sandbox_id=one)
    checked("killSandbox", sandbox_id=one)
    checked("adminKillSandbox", sandbox_id=copies[0]["sandbox"]["sandboxID"])


def _templates(checked: Checked) -> None:
    asked = checked("requestBuild", {"name": f"openapi-{uuid.uuid4().hex[:8]}", "tags": ["v1"]})
    template, build = asked["templateID"], asked["buildID"]
    checked("offerUpload", template_id=template, hash="a" * 64)
    checked("startBuild", {"fromTemplate": "base", "steps": [{"type": "ENV", "args": ["A", "b"]}]}, template_id=template, build_id=build)
    eventually(lambda: checked("getBuildStatus", template_id=template, build_id=build)["status"] == "ready", timeout_s=120)
    assert checked("getBuildLogs", template_id=template, build_id=build)["logs"]
    checked("assignTags", {"target": f"{asked['names'][0]}:v1", "tags": ["v2"]})
    for name in ("listTags", "countTags", "listTagGroups", "getTemplate"):
        assert checked(name, template_id=template)
    checked("tagExists", query={"tag": "v2"}, template_id=template)
    assert checked("listAssignments", template_id=template, tag="v2")["data"]
    checked("removeTags", {"name": asked["names"][0], "tags": ["v2"]})
    checked("changeTemplate", {"public": False}, template_id=template)
    checked("changeTemplateV1", {"public": False}, template_id=template)
    checked("findAlias", alias="base")
    for name in ("listTemplates", "listTemplatePages", "listDefaultTemplates"):
        assert checked(name)
    checked("deleteTemplate", template_id=template)


def _stored(checked: Checked) -> None:
    secret = checked("createSecret", {"name": f"openapi-{uuid.uuid4().hex[:8]}", "value": "x", "metadata": {"a": "b"}})["secretID"]
    assert checked("listSecrets")
    checked("getSecret", secret_id=secret)
    checked("updateSecret", {"value": "y"}, secret_id=secret)
    checked("deleteSecret", secret_id=secret)
    made = checked("createVolume", {"name": f"openapi-{uuid.uuid4().hex[:8]}", "sizeMB": 64})
    volume, token = made["volumeID"], made["token"]
    checked("makeDirectory", query={"path": "/d"}, token=token, volume_id=volume)
    checked("writeFile", b"hello", query={"path": "/d/f"}, token=token, volume_id=volume)
    checked("getEntry", query={"path": "/d/f"}, token=token, volume_id=volume)
    checked("changeEntry", {"mode": 0o640}, query={"path": "/d/f"}, token=token, volume_id=volume)
    assert checked("listDirectory", query={"path": "/d"}, token=token, volume_id=volume)
    checked("deleteVolume", volume_id=checked("copyVolume", {"name": f"openapi-{uuid.uuid4().hex[:8]}"}, volume_id=volume)["volumeID"])
    checked("removeEntry", query={"path": "/d/f"}, token=token, volume_id=volume)
    assert checked("listVolumes")
    checked("getVolume", volume_id=volume)
    checked("deleteVolume", volume_id=volume)


def _keys_and_events(checked: Checked) -> None:
    (team,) = checked("listTeams")
    checked("getTeamMetrics", team_id=team["teamID"])
    checked("getTeamMetricMax", query={"metric": "concurrent_sandboxes"}, team_id=team["teamID"])
    key = checked("createKey", {"name": "openapi", "expiresAt": "2100-01-01T00:00:00Z"})["id"]
    checked("renameKey", {"name": "openapi-2"}, key_id=key)
    assert checked("listKeys")
    checked("revokeKey", key_id=key)
    token = checked("createAccessToken", {"name": "openapi"})["id"]
    checked("revokeAccessToken", key_id=token)
    webhook = checked("createWebhook", {"name": "openapi", "url": "https://example.com/", "events": ["sandbox.lifecycle.created"],
                                        "signatureSecret": "s" * 32, "enabled": False})["id"]  # fmt: skip
    assert checked("listWebhooks")
    checked("getWebhook", webhook_id=webhook)
    checked("changeWebhook", {"name": "other"}, webhook_id=webhook)
    checked("listDeliveries", webhook_id=webhook)
    checked("getWebhookStats", webhook_id=webhook)
    checked("deleteWebhook", webhook_id=webhook)
    assert checked("listAudit", query={"limit": 20})


def _operator(checked: Checked) -> None:
    team = checked("adminCreateTeam", {"name": f"openapi-{uuid.uuid4().hex[:8]}", "limits": {"sandboxes": 3}})["teamID"]
    assert checked("adminListTeams")
    checked("adminGetTeam", team_id=team)
    checked("adminLimitTeam", {"limits": {"sandboxes": None}}, team_id=team)
    key = checked("adminCreateKey", {"name": "openapi"}, team_id=team)["id"]
    assert checked("adminListKeys", team_id=team)
    checked("adminRevokeKey", team_id=team, key_id=key)
    checked("adminKillSandboxes", team_id=team)
    checked("adminRemoveTeam", team_id=team)
    checked("adminGetNode")
    checked("getOpenIdConfiguration")
    checked("getKeySet")


def test_answers_fit_their_schemas(checked: Checked) -> None:
    """Each operation answers with a declared status and exactly the declared fields; those that are not tried are listed."""
    for part in (_sandboxes, _templates, _stored, _keys_and_events, _operator):
        part(checked)
    served = {name for name, (_, _, one) in OPERATIONS.items() if not one.get("deprecated")}
    assert sorted(served - checked.called - NOT_TRIED) == []
    assert sorted(checked.called & NOT_TRIED) == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/sandboxes/i0000000000000000000", 404), ("POST", "/v2/sandboxes", 400), ("GET", "/nowhere", 404), ("PUT", "/sandboxes", 405),
     ("POST", "/templates", 400)],
)  # fmt: skip
def test_errors_fit_their_schema(method: str, path: str, status: int, server: Server) -> None:
    """Every error has the declared form, also of routes that are not there."""
    answer = call(server.url, method, path, body={}, headers={"X-API-KEY": server.api_key})
    assert answer.status == status
    Checked(server, "").check({"$ref": "#/components/schemas/Error"}, answer.json())
    assert answer.json()["code"] == status


def test_a_wrong_key_gets_the_declared_error(server: Server) -> None:
    """401, in the same form."""
    answer = call(server.url, "GET", "/v2/sandboxes", headers={"X-API-KEY": "e2b_" + "0" * 40})
    assert answer.status == 401
    Checked(server, "").check({"$ref": "#/components/schemas/Error"}, answer.json())
