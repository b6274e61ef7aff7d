"""Which names of registries are of this host, and which need no TLS."""

from __future__ import annotations

import pytest

from cloister.errors import InvalidRequestError
from cloister.template.images.registries import RegistrySettings
from cloister.template.interfaces import HostEndpoint


def test_only_the_listed_name_is_a_door() -> None:
    """With that port, and no other spelling of the same address."""
    found = RegistrySettings(("localhost:5000", "Hub.Example.com:5001", "10.1.2.3:80"))
    assert found.host_endpoint("localhost:5000") == HostEndpoint("localhost", 5000)
    for name in ("hub.example.com:5001", "HUB.example.com:5001"):
        assert found.host_endpoint(name) == HostEndpoint("hub.example.com", 5001)
    assert found.host_endpoint("10.1.2.3:80") == HostEndpoint("10.1.2.3", 80)
    for other in (
        "localhost:5001",
        "localhost",
        "127.0.0.1:5000",
        "localhost:05000",
        "xlocalhost:5000",
        "hub.example.com",
        "10.1.2.3",
        "docker.io",
    ):
        assert found.host_endpoint(other) is None
    assert RegistrySettings().host_endpoint("localhost:5000") is None


@pytest.mark.parametrize(
    "entry",
    ["localhost", "localhost:0", "localhost:65536", "localhost:x", "http://localhost:5000", "localhost:5000/x", "", "[::1]:5000", "a b:1"],
)
def test_entry_that_is_no_host_and_port(entry: str) -> None:
    """Is refused at the start."""
    with pytest.raises(InvalidRequestError, match="host_registries"):
        RegistrySettings((entry,))


def test_registries_without_tls() -> None:
    """The listed ones, and every loopback address; never by a name that looks like one."""
    found = RegistrySettings(insecure=("hub.lan:5000", "plain.lan"))
    for name in ("hub.lan:5000", "HUB.lan:5000", "plain.lan", "localhost", "localhost:1", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"):
        assert found.is_insecure(name)
    for name in (
        "hub.lan",
        "hub.lan:5001",
        "plain.lan:443",
        "localhost.example.com",
        "127.example.com",
        "128.0.0.1",
        "docker.io",
        "localhostx:1",
    ):
        assert not found.is_insecure(name)
    with pytest.raises(InvalidRequestError, match="insecure_registries"):
        RegistrySettings(insecure=("http://hub.lan",))


def test_loopback_that_is_not_listed_is_out_of_reach() -> None:
    """In a sandbox it is the sandbox's own."""
    found = RegistrySettings(("localhost:5000",))
    assert not found.is_out_of_reach("localhost:5000")
    assert not found.is_out_of_reach("hub.lan:5000")
    for name in ("localhost:5001", "localhost", "127.0.0.1:5000", "[::1]:5000"):
        assert found.is_out_of_reach(name)
