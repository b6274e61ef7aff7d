"""Attacks through a registry of this host: a pull reaches only that port of the host, and no other process reaches it (I4)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from e2b import BuildException, Sandbox, Template

from cloister.errors import BuildError
from cloister.template.images.registries import RegistrySettings
from cloister.template.interfaces import BuildSandboxSpec, HostEndpoint, ShellCommand
from framework.build_node import LIMITS, NoCancellation
from framework.hostile_registry import Canary, HostileRegistry, canary, hostile_registry
from framework.image_node import ImageNode, host_node
from framework.server import running_server
from framework.template_requests import new_name

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture
def forbidden() -> Iterator[Canary]:
    """A port of the host that no sandbox may reach."""
    with canary() as made:
        yield made


@pytest.fixture
def hub() -> Iterator[HostileRegistry]:
    """The attacker's registry."""
    with hostile_registry() as made:
        yield made


@pytest.fixture
def node(stock_templates: None, hub: HostileRegistry) -> Iterator[ImageNode]:
    """A node that pulls from it by the name of loopback."""
    with host_node(registries=RegistrySettings((f"localhost:{hub.port}",))) as made:
        yield made


def own_address() -> str:
    """An address of this host that is not loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))
        found: str = sock.getsockname()[0]
        return found


def attempts(*ports: int) -> str:
    """A script that says which of them it reaches, by whatever name the host may have."""
    gateway = "$(awk '/nameserver/ { print $2; exit }' /etc/resolv.conf)"
    places = ("127.0.0.1", "127.0.0.2", "localhost", "::1", gateway, own_address())
    tries = (
        f"timeout 2 bash -c '< /dev/tcp/'{place}'/{port}' 2> /dev/null && echo reached {place} {port};"
        for place in places
        for port in ports
    )
    return "".join(tries) + "echo tried"


def said_in(node: ImageNode, endpoint: HostEndpoint | None, *ports: int) -> list[str]:
    """Reachable targets of a build sandbox, as its root."""
    said: list[bytes] = []
    spec = BuildSandboxSpec(limits=LIMITS, host_endpoint=endpoint)
    with node.node.build_sandboxes.open(node.node.base.layers, spec, NoCancellation()) as box:
        assert box.run(ShellCommand(text=attempts(*ports), user="root", cwd="/"), lambda _kind, data: said.append(data)) == 0
    return b"".join(said).decode().splitlines()


def test_pull_cannot_reach_another_port_of_the_host(node: ImageNode, hub: HostileRegistry, forbidden: Canary) -> None:
    """Whatever runs in its sandbox: the one port by the one name, and nothing by any other; the forward is gone with the sandbox."""
    said = said_in(node, HostEndpoint("localhost", hub.port), hub.port, forbidden.port)
    assert said == [f"reached 127.0.0.1 {hub.port}", f"reached localhost {hub.port}", "tried"]
    assert forbidden.callers == []
    assert not [thread for thread in threading.enumerate() if thread.name == "port-forward"]


def test_step_cannot_reach_the_hosts_registry_during_a_pull(node: ImageNode, hub: HostileRegistry) -> None:
    """A build sandbox beside that of the pull has no forward."""
    hub.stalled = True

    def ask() -> None:
        with pytest.raises(BuildError):
            node.base(f"localhost:{hub.port}/x:1")

    pull = threading.Thread(target=ask, daemon=True)
    pull.start()
    assert hub.is_asked.wait(60)
    heard = len(hub.heard)
    assert said_in(node, None, hub.port) == ["tried"]
    assert pull.is_alive()
    assert len(hub.heard) == heard
    hub.go.set()
    pull.join(60)


def test_sandbox_cannot_reach_the_hosts_registry_during_a_pull(stock_templates: None, hub: HostileRegistry) -> None:
    """On a whole server, by the SDK: neither an ordinary sandbox nor a step of another template."""
    hub.stalled = True
    with running_server("--pool-size", "0", "--host-registries", f"localhost:{hub.port}") as server:
        connection = {"api_key": server.api_key, "api_url": server.url}

        def pull() -> None:
            with pytest.raises(BuildException):
                Template.build(Template().from_image(f"localhost:{hub.port}/x:1"), new_name(), **connection)  # type: ignore[arg-type]  # fields by name

        with Sandbox.create("base", timeout=120, **server.sdk) as sandbox:
            thread = threading.Thread(target=pull, daemon=True)
            thread.start()
            assert hub.is_asked.wait(60)
            assert sandbox.commands.run(attempts(hub.port), user="root", timeout=60).stdout == "tried\n"
            logs: list[str] = []
            step = Template().from_template("base").run_cmd(attempts(hub.port), user="root")
            Template.build(step, new_name(), on_build_logs=lambda entry: logs.append(entry.message), **connection)  # type: ignore[arg-type]  # fields by name
            assert "tried" in " ".join(logs)
            assert not [line for line in logs if "reached" in line and " RUN " not in line]
            hub.go.set()
            thread.join(60)


@pytest.mark.parametrize("kind", ["ping", "manifests", "blobs", "token"])
@pytest.mark.parametrize("place", ["127.0.0.1", "localhost"])
def test_registry_cannot_send_a_pull_to_another_port_of_the_host(
    node: ImageNode, hub: HostileRegistry, forbidden: Canary, kind: str, place: str
) -> None:
    """Redirects, and where it says that tokens are handed out, lead to the sandbox itself."""
    hub.redirected, hub.redirect = kind, f"http://{place}:{forbidden.port}"
    with pytest.raises(BuildError):
        node.base(f"localhost:{hub.port}/x:1")
    assert hub.heard
    assert forbidden.callers == []


def test_reference_cannot_name_another_port_of_the_host(node: ImageNode, forbidden: Canary) -> None:
    """The forward is for exactly the name that is listed."""
    for host in ("localhost", "127.0.0.1", "127.0.0.2"):
        with pytest.raises(BuildError):
            node.base(f"{host}:{forbidden.port}/x:1")
    assert forbidden.callers == []
