"""``PUT /sandboxes/{sandbox_id}/network``, and networks over the life of a sandbox, against the control plane over a fake node."""

from __future__ import annotations

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cloister.errors import IsolationError
from cloister.model.network import EgressPolicy, EgressProxy
from cloister.model.secret import Secret
from framework.control_plane import ControlPlane
from framework.http import Answer
from framework.requests import ask, create

pytestmark = pytest.mark.root
ALL = "0.0.0.0/0"
FULL = {
    "allowOut": ["8.8.8.8", "*.example.com"],
    "denyOut": [ALL],
    "dnsServers": ["1.1.1.1"],
    "rules": {"api.example.com": [{"transform": {"headers": {"X-Key": "${e2b.secrets.key}"}}}]},
    "egressProxy": {"address": "198.51.100.7:1080", "username": "u", "password": "hidden-password"},
}
INGRESS = {"allowPublicTraffic": False, "maskRequestHost": "localhost:${PORT}", "httpsPorts": [8443]}


def put(plane: ControlPlane, sandbox_id: str, body: Any) -> Answer:
    """An update of a sandbox's network."""
    return ask(plane, "PUT", f"/sandboxes/{sandbox_id}/network", body)


def detail(plane: ControlPlane, sandbox_id: str) -> dict[str, Any]:
    """The sandbox as GET shows it."""
    shown: dict[str, Any] = ask(plane, "GET", f"/sandboxes/{sandbox_id}").json()
    return shown


def policy(plane: ControlPlane, sandbox_id: str) -> EgressPolicy:
    """The policy that the node enforces."""
    return plane.node.find(sandbox_id).record.egress


def agree(plane: ControlPlane, sandbox_id: str, network: dict[str, Any] | None, internet: bool | None) -> None:
    """Check that GET shows this network, and that it is shown after a restart of the api process too."""
    for _ in range(2):
        shown = detail(plane, sandbox_id)
        assert shown.get("network") == network
        assert shown["allowInternetAccess"] == internet
        plane.restart_api()


def test_a_network_is_shown_as_it_was_sent(control_plane: ControlPlane) -> None:
    """All options by both versions of the route, without the proxy's password, after a restart too; nothing if none was sent."""
    shown = {**INGRESS, **FULL, "egressProxy": {"address": "198.51.100.7:1080", "username": "u"}}
    for path in ("/sandboxes", "/v2/sandboxes"):
        sandbox_id = create(control_plane, path, network={**INGRESS, **FULL}, secure=True)["sandboxID"]
        agree(control_plane, sandbox_id, shown, None)
        found = policy(control_plane, sandbox_id)
        assert found.allow == ("8.8.8.8/32",)
        assert found.names == ("*.example.com",)
        assert found.proxy == EgressProxy(address="198.51.100.7:1080", username="u", password=Secret("hidden-password"))
        assert b"hidden-password" not in ask(control_plane, "GET", "/v2/sandboxes").body
    agree(control_plane, create(control_plane)["sandboxID"], None, None)


def test_an_update_replaces_the_egress(control_plane: ControlPlane) -> None:
    """Fields that an update leaves out are cleared, and those of the ingress stay."""
    sandbox_id = create(control_plane, network={**INGRESS, **FULL})["sandboxID"]
    assert put(control_plane, sandbox_id, {"denyOut": ["9.9.9.9"]}).status == 204
    agree(control_plane, sandbox_id, {**INGRESS, "denyOut": ["9.9.9.9"]}, None)
    assert policy(control_plane, sandbox_id) == EgressPolicy(public=True, deny=("9.9.9.9/32",))
    assert put(control_plane, sandbox_id, FULL).status == 204
    assert policy(control_plane, sandbox_id).proxy is not None
    assert put(control_plane, sandbox_id, {}).status == 204
    assert policy(control_plane, sandbox_id) == EgressPolicy(public=True)
    agree(control_plane, sandbox_id, INGRESS, None)


def test_an_update_without_fields_opens_the_internet(control_plane: ControlPlane) -> None:
    """It says so: answers, the node and a resume agree."""
    sandbox_id = create(control_plane, allow_internet_access=False)["sandboxID"]
    assert detail(control_plane, sandbox_id)["allowInternetAccess"] is False
    assert put(control_plane, sandbox_id, {}).status == 204
    agree(control_plane, sandbox_id, {}, None)
    assert ask(control_plane, "POST", f"/sandboxes/{sandbox_id}/pause").status == 204
    assert ask(control_plane, "POST", f"/sandboxes/{sandbox_id}/resume", {"timeout": 100}).status == 201
    agree(control_plane, sandbox_id, {}, None)
    assert policy(control_plane, sandbox_id) == EgressPolicy(public=True)
    assert put(control_plane, sandbox_id, {"allow_internet_access": False}).status == 204
    agree(control_plane, sandbox_id, {}, False)
    assert policy(control_plane, sandbox_id).is_closed


def test_a_fork_has_the_changed_network(control_plane: ControlPlane) -> None:
    """A copy begins with the network that its original has now."""
    sandbox_id = create(control_plane, network=INGRESS)["sandboxID"]
    put(control_plane, sandbox_id, FULL)
    (entry,) = ask(control_plane, "POST", f"/sandboxes/{sandbox_id}/fork", {"memory": False}).json()
    copy_id = entry["sandbox"]["sandboxID"]
    assert detail(control_plane, copy_id)["network"] == detail(control_plane, sandbox_id)["network"]
    assert policy(control_plane, copy_id) == policy(control_plane, sandbox_id)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"denyOut": ["example.com"]}, "invalid denied CIDR example.com"),
        ({"allowOut": ["example.com"]}, "ALL_TRAFFIC"),
        ({"httpsPorts": [443]}, "network.httpsPorts is fixed"),
        ({"egressProxy": {"address": "10.1.2.3:1080"}}, "does not resolve to a public IPv4 address"),
        ({"egressProxy": {"address": "127.0.0.1:1080"}}, "does not resolve to a public IPv4 address"),
        ({"egressProxy": {"address": "localhost:1080"}}, "does not resolve to a public IPv4 address"),
        ({"egressProxy": {"address": "no-such-name.invalid:1080"}}, "does not resolve to a public IPv4 address"),
        ({"egressProxy": {"address": "[::1]:1080"}}, "does not resolve to a public IPv4 address"),
        ([], "must be a JSON object"),
    ],
)
def test_a_wrong_update_changes_nothing(control_plane: ControlPlane, body: Any, words: str) -> None:
    """It is 400, as at a creation, and names the cause."""
    sandbox_id = create(control_plane, network={"denyOut": [ALL]})["sandboxID"]
    answer = put(control_plane, sandbox_id, body)
    assert (answer.status, words in answer.json()["message"]) == (400, True), answer.body
    agree(control_plane, sandbox_id, {"denyOut": [ALL]}, None)
    assert policy(control_plane, sandbox_id).is_closed


def test_sandboxes_that_have_no_network_to_change(control_plane: ControlPlane) -> None:
    """An unknown sandbox and another team's are 404, a paused one is 409, a malformed id is 400."""
    assert put(control_plane, "a" * 20, {}).status == 404
    assert "doesn't exist or you don't have access to it" in put(control_plane, "a" * 20, {}).json()["message"]
    assert put(control_plane, "A.B", {}).status == 400
    sandbox_id = create(control_plane)["sandboxID"]
    assert ask(control_plane, "POST", f"/sandboxes/{sandbox_id}/pause").status == 204
    refused = put(control_plane, sandbox_id, {"denyOut": [ALL]})
    assert (refused.status, "not running" in refused.json()["message"]) == (409, True)
    ask(control_plane, "DELETE", f"/sandboxes/{sandbox_id}")
    assert put(control_plane, sandbox_id, {}).status == 404


def test_a_change_that_the_node_could_not_make(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row keeps what is in force."""
    sandbox_id = create(control_plane, network={"denyOut": [ALL]})["sandboxID"]

    async def fail(_request: object) -> None:
        raise IsolationError("nftables failed")

    monkeypatch.setattr(control_plane.node, "set_network", fail)
    assert put(control_plane, sandbox_id, {}).status == 500
    agree(control_plane, sandbox_id, {"denyOut": [ALL]}, None)


def test_a_change_that_was_not_stored(control_plane: ControlPlane) -> None:
    """A row that is older than the node's policy takes it when both meet again."""
    sandbox_id = create(control_plane, network=INGRESS)["sandboxID"]
    former = _network_column(control_plane, sandbox_id)
    assert put(control_plane, sandbox_id, {"denyOut": [ALL]}).status == 204
    for row in (former, ('{"public": true}', former[1])):
        _set_network_column(control_plane, sandbox_id, row)
        control_plane.restart_api()
        agree(control_plane, sandbox_id, {**INGRESS, "denyOut": [ALL]}, None)


def test_changes_at_the_same_moment(control_plane: ControlPlane) -> None:
    """They are made one after another: answers and the node agree about the last."""
    sandbox_id = create(control_plane)["sandboxID"]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: put(control_plane, sandbox_id, {"denyOut": [f"9.9.9.{n}"]}), range(24)))
    assert {answer.status for answer in answers} == {204}
    (shown,) = detail(control_plane, sandbox_id)["network"]["denyOut"]
    assert policy(control_plane, sandbox_id).deny == (f"{shown}/32",)


def _network_column(plane: ControlPlane, sandbox_id: str) -> tuple[str, str]:
    with contextlib.closing(sqlite3.connect(plane.settings.data_dir / "api" / "cloister.db")) as connection:
        row: tuple[str, str] = connection.execute("SELECT egress, network FROM sandboxes WHERE sandbox_id = ?", (sandbox_id,)).fetchone()
        return row


def _set_network_column(plane: ControlPlane, sandbox_id: str, row: tuple[str | None, str]) -> None:
    with contextlib.closing(sqlite3.connect(plane.settings.data_dir / "api" / "cloister.db")) as connection, connection:
        connection.execute("UPDATE sandboxes SET egress = ?, network = ? WHERE sandbox_id = ?", (*row, sandbox_id))
