"""Images of a registry on the server's own host, by the official Python SDK: as a server without internet has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from e2b import Sandbox, Template
from e2b.exceptions import BuildException

from framework.host_registry import HostRegistry, host_registry
from framework.registry import Image, entry, layer
from framework.server import Server, running_server
from framework.template_requests import new_name

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def hub(stock_templates: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostRegistry]:
    """Debian's docker-registry on loopback, with an image of its own and one that stands for Docker's."""
    with host_registry(tmp_path_factory.mktemp("hub")) as made:
        image = Image(layers=[layer(entry("made", data=b"of the host"))], config={"Env": ["GREETING=hello"]})
        made.push("team/made", "1", image)
        made.push("hub/library/python", "3.12", image)
        yield made


@pytest.fixture(scope="module")
def server(hub: HostRegistry) -> Iterator[Server]:
    """A server whose operator has listed that registry, and maps Docker's to it."""
    name = f"localhost:{hub.port}"
    with running_server("--pool-size", "0", "--host-registries", name, "--image-map", f"docker.io/*={name}/hub/*") as made:
        yield made


def build(server: Server, template: Any) -> tuple[str, str]:
    """Build it; the name, and the log."""
    logs: list[str] = []
    name = new_name()
    Template.build(
        template, name, api_key=server.api_key, api_url=server.url, on_build_logs=lambda line: logs.append(f"{line.level} {line.message}")
    )
    return name, "\n".join(logs)


def test_image_of_the_hosts_registry(server: Server, hub: HostRegistry) -> None:
    """Is built upon and run, and the log says that there was no TLS."""
    name, log = build(server, Template().from_image(f"localhost:{hub.port}/team/made:1").run_cmd("cp /made /home/user/copied"))
    assert f"warn the connection to localhost:{hub.port} has no TLS" in log
    with Sandbox.create(name, timeout=120, **server.sdk) as sandbox:
        assert sandbox.commands.run('cat ~/copied; echo " $GREETING"').stdout == "of the host hello\n"


def test_official_image_by_the_map(server: Server, hub: HostRegistry) -> None:
    """References of the SDK's own methods lead to the operator's registry."""
    name, log = build(server, Template().from_python_image("3.12"))
    assert f"mapped to localhost:{hub.port}/hub/library/python:3.12" in log
    with Sandbox.create(name, timeout=120, **server.sdk) as sandbox:
        assert sandbox.files.read("/made") == "of the host"


def test_other_port_of_the_host(server: Server) -> None:
    """Is refused, and the client learns which setting it would take."""
    port = server.url.rpartition(":")[2]
    with pytest.raises(BuildException, match="builds do not reach this host") as caught:
        build(server, Template().from_image(f"localhost:{port}/team/made:1"))
    assert f"host_registries, as localhost:{port}" in str(caught.value)
