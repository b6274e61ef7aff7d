"""Images of a registry on this host, through a port forward that the operator allowed, with TLS or without."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.errors import BuildError
from cloister.template.images.registries import RegistrySettings
from framework.host_registry import HostRegistry, host_registry
from framework.image_node import ImageNode, host_node
from framework.pretend_certificates import write_certificates
from framework.registry import Image, entry, layer
from framework.server import free_port

pytestmark = [pytest.mark.root, pytest.mark.templates]

_TLS_NAME = "registry.host.test"


@pytest.fixture(scope="module")
def hub(stock_templates: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostRegistry]:
    """Plain HTTP on loopback, with the images ``made:1`` and ``library/python:3``."""
    with host_registry(tmp_path_factory.mktemp("hub")) as made:
        image = Image(layers=[layer(entry("made", data=b"of the host"))])
        made.push("team/made", "1", image)
        made.push("hub/library/python", "3", image)
        yield made


def run(node: ImageNode, reference: str) -> str:
    """What the test's image holds."""
    return node.run(node.base(reference), "cat /made")


def listed(*names: str, insecure: tuple[str, ...] = ()) -> RegistrySettings:
    """Of this host."""
    return RegistrySettings(names, insecure)


def own_address() -> str:
    """An address of this host that is not loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))
        found: str = sock.getsockname()[0]
        return found


def test_registry_on_loopback(hub: HostRegistry) -> None:
    """By the name that is listed, also by the image map, and the log says that it has no TLS."""
    name = f"localhost:{hub.port}"
    with host_node(f"docker.io/*={name}/hub/*", registries=listed(name)) as node:
        assert run(node, f"{name}/team/made:1") == "of the host"
        assert f"warn: the connection to {name} has no TLS" in node.log
        assert run(node, f"{name}/team/made:1") == "of the host"
        assert "here already" in node.log
        assert f"warn: the connection to {name} has no TLS" in node.log
        assert run(node, "python:3") == "of the host"
        assert f"mapped to {name}/hub/library/python:3" in node.log
        with pytest.raises(BuildError, match="does not exist"):
            node.base(f"{name}/team/made:2")


def test_registry_that_is_not_listed(hub: HostRegistry) -> None:
    """Is refused, with the setting that would help; the registry hears nothing."""
    heard = len(hub.log.read_bytes())
    other = f"localhost:{free_port()}"
    with host_node(registries=listed(other)) as node:
        for name in (f"localhost:{hub.port}", f"127.0.0.1:{hub.port}", f"127.0.0.2:{hub.port}", f"[::1]:{hub.port}"):
            with pytest.raises(BuildError, match="builds do not reach this host") as caught:
                node.base(f"{name}/team/made:1")
            assert f"host_registries, as {name}" in str(caught.value.hint)
        with pytest.raises(BuildError, match=f"nothing answers at {other} on this host"):
            node.base(f"{other}/team/made:1")
    assert len(hub.log.read_bytes()) == heard


def test_registry_at_the_hosts_own_address(stock_templates: None, tmp_path: Path) -> None:
    """Plain HTTP is refused until it is allowed. A port forward then reaches the address, which no sandbox reaches."""
    address = own_address()
    with host_registry(tmp_path / "hub", address=address) as hub:
        hub.push("made", "1", Image(layers=[layer(entry("made", data=b"of the host"))]))
        name = f"{address}:{hub.port}"
        with host_node(registries=listed(name)) as node, pytest.raises(BuildError, match="speaks plain HTTP") as caught:
            node.base(f"{name}/made:1")
        assert f"{name} in the setting insecure_registries" in str(caught.value.hint)
        with host_node(registries=listed(name, insecure=(name,))) as node:
            assert run(node, f"{name}/made:1") == "of the host"
            assert f"warn: the connection to {name} has no TLS" in node.log
        with host_node(registries=listed(insecure=(name,))) as node, pytest.raises(BuildError, match="cannot be reached"):
            node.base(f"{name}/made:1")


def test_registry_with_tls(stock_templates: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its certificate is checked against the name that the client wrote, also where TLS could be done without."""
    authority, certificate = tmp_path / "ca.pem", tmp_path / "server.pem"
    write_certificates(authority, certificate, [_TLS_NAME], ())
    known = socket.getaddrinfo

    def resolve(host: Any, *arguments: Any, **options: Any) -> Any:
        return known("127.0.0.1" if host == _TLS_NAME else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)  # as /etc/hosts of the host would
    with host_registry(tmp_path / "hub", certificate=certificate, authority=authority) as hub:
        hub.push("made", "1", Image(layers=[layer(entry("made", data=b"of the host"))]))
        name, wrong = f"{_TLS_NAME}:{hub.port}", f"localhost:{hub.port}"
        registries = listed(name, wrong, insecure=(name, wrong))
        with host_node(registries=registries, extra_ca_file=authority) as node:
            assert run(node, f"{name}/made:1") == "of the host"
            assert "without TLS" not in node.log
            with pytest.raises(BuildError, match=f"certificate of {wrong} is not trusted"):
                node.base(f"{wrong}/made:1")
        with host_node(registries=registries) as node, pytest.raises(BuildError, match="is not trusted") as caught:
            node.base(f"{name}/made:1")
        assert "extra_ca_file" in str(caught.value.hint)
