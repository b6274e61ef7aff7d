"""``network=`` and ``update_network`` of the official SDKs, with callables: what the node gets, and what ``get_info`` shows."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from e2b import ALL_TRAFFIC, SandboxException, SandboxNotFoundException
from e2b_code_interpreter import AsyncSandbox, Sandbox

from cloister.model.network import EgressPolicy, EgressProxy, HeaderRule
from cloister.model.secret import Secret as Concealed
from framework.control_plane import ControlPlane

pytestmark = pytest.mark.root
JS = Path(__file__).parent / "js"
FULL: dict[str, Any] = {
    "rules": {"api.example.com": [{"transform": {"headers": {"X-Key": "${e2b.secrets.key}"}}}]},
    "allow_out": lambda ctx: [*ctx.rules, "8.8.8.8"],
    "deny_out": lambda ctx: [ctx.all_traffic],
    "dns_servers": ["1.1.1.1"],
    "egress_proxy": {"address": "198.51.100.7:1080", "username": "u", "password": "p", "tls": {"server_name": "proxy.example.com"}},
}
POLICY = EgressPolicy(
    public=True,
    allow=("8.8.8.8/32",),
    names=("api.example.com",),
    deny=(ALL_TRAFFIC,),
    dns_servers=("1.1.1.1",),
    rules=(HeaderRule(host="api.example.com", headers={"X-Key": "${e2b.secrets.key}"}),),
    proxy=EgressProxy(address="198.51.100.7:1080", username="u", password=Concealed("p"), tls=True, server_name="proxy.example.com"),
)
SHOWN = {
    "rules": {"api.example.com": [{"transform": {"headers": {"X-Key": "${e2b.secrets.key}"}}}]},
    "allow_out": ["api.example.com", "8.8.8.8"],
    "deny_out": ["0.0.0.0/0"],
    "dns_servers": ["1.1.1.1"],
    "egress_proxy": {"address": "198.51.100.7:1080", "username": "u", "tls": {"server_name": "proxy.example.com"}},
}
INGRESS: dict[str, Any] = {"allow_public_traffic": False, "mask_request_host": "localhost:${PORT}", "https_ports": [8443]}


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two Python SDKs."""
    return str(request.param)


async def done(found: Any) -> Any:
    """The result of a call of either SDK."""
    return await found if inspect.isawaitable(found) else found


async def test_every_option(control_plane: ControlPlane, kind: str) -> None:
    """Each option, at the creation and by an update, becomes the policy that it means, and is shown as it was given."""
    made = await done((Sandbox if kind == "sync" else AsyncSandbox).create(network={**FULL, **INGRESS}, **control_plane.sdk))
    node = control_plane.node.find(made.sandbox_id)
    assert node.record.egress == POLICY
    assert (await done(made.get_info())).network == {**SHOWN, **INGRESS}
    await done(made.update_network({"deny_out": ["9.9.9.9"], "allow_internet_access": False}))
    assert node.record.egress == EgressPolicy(public=False, deny=("9.9.9.9/32",))
    info = await done(made.get_info())
    assert (info.network, info.allow_internet_access) == ({"deny_out": ["9.9.9.9"], **INGRESS}, False)
    await done(made.update_network(FULL))
    assert node.record.egress == POLICY
    await done(made.pause())
    with pytest.raises(SandboxException, match=r"409: .* is not running"):
        await done(made.update_network({}))
    await done(made.connect())
    assert (await done(made.get_info())).network == {**SHOWN, **INGRESS}
    await done(made.kill())
    with pytest.raises(SandboxNotFoundException):
        await done(made.update_network({}))


@pytest.mark.skipif(
    shutil.which("node") is None or not (JS / "node_modules" / "e2b").is_dir(), reason="needs Node and `npm ci` in tests/conformance/js"
)
def test_javascript(control_plane: ControlPlane) -> None:
    """The JavaScript SDK sends the same (it knows neither DNS servers nor TLS to a proxy)."""
    ran = subprocess.run(
        ["node", "network.mjs"], cwd=JS, env=control_plane.environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    rules = {"api.example.com": [{"transform": {"headers": {"X-Key": "${e2b.secrets.key}"}}}]}
    egress = {
        "rules": rules,
        "allowOut": ["api.example.com", "8.8.8.8"],
        "denyOut": ["0.0.0.0/0"],
        "egressProxy": {"address": "198.51.100.7:1080", "username": "u"},
    }
    ingress = {"allowPublicTraffic": False, "maskRequestHost": "localhost:${PORT}", "httpsPorts": [8443]}
    assert seen["created"] == {**egress, **ingress}
    assert seen["changed"] == {"denyOut": ["9.9.9.9"], **ingress}
    assert seen["again"] == {**egress, **ingress}
    assert seen["internet"] == [None, False, None]
    assert seen["wrong"].startswith("SandboxError: 400: ")
    (sandbox,) = control_plane.node.sandboxes.values()
    assert sandbox.record.egress.names == ("api.example.com",)
