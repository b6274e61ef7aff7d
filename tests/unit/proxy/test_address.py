"""Which sandbox and port a request means."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from cloister.api.routes import ADMIN_ROUTES, NOT_BUILT, ROUTES
from cloister.proxy.address import Address, AddressError, api_host, find_address

AT_AGENT = {"E2b-Sandbox-Id": "abc", "E2b-Sandbox-Port": "49983"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Host": "localhost:3000"}, None),
        ({"Host": "127.0.0.1:3000"}, None),
        ({"Host": "api.sbx.test"}, None),
        ({"Host": "49999-abc123.sbx.test"}, Address("abc123", 49999)),
        ({"Host": "8080-abc123-client.sbx.test:443"}, Address("abc123", 8080)),
        ({"Host": "8080-ABC123.SBX.TEST"}, Address("abc123", 8080)),
        ({"Host": "8080-abc123"}, None),
        ({"E2b-Sandbox-Id": "abc", "E2b-Sandbox-Port": "1", "Host": "2-def.x"}, Address("abc", 1)),
        ({"e2b-sandbox-id": "abc-client", "e2b-sandbox-port": "65535"}, Address("abc", 65535)),
        ({}, None),
    ],
)
def test_addresses(headers: dict[str, str], expected: Address | None) -> None:
    """Headers count before the host; a host without the form is the API's."""
    assert find_address(CIMultiDict(headers), "/files", "api.sbx.test") == expected


@pytest.mark.parametrize(
    "headers",
    [
        {"E2b-Sandbox-Id": "abc"},
        {"E2b-Sandbox-Id": "../x", "E2b-Sandbox-Port": "1"},
        {"E2b-Sandbox-Id": "abc", "E2b-Sandbox-Port": "0"},
        {"E2b-Sandbox-Id": "abc", "E2b-Sandbox-Port": "65536"},
        {"E2b-Sandbox-Id": "abc", "E2b-Sandbox-Port": "٣"},
        {"E2b-Sandbox-Id": "abc", "E2b-Sandbox-Port": "1e3"},
        {"E2b-Sandbox-Id": "", "E2b-Sandbox-Port": "1"},
        {"Host": "70000-abc.x"},
    ],
)
def test_impossible_addresses(headers: dict[str, str]) -> None:
    """A malformed address is an error, not the API's request."""
    with pytest.raises(AddressError):
        find_address(CIMultiDict(headers), "/files", "api.sbx.test")


@pytest.mark.parametrize("path", sorted({path for _, path, _ in (*ROUTES, *NOT_BUILT, *ADMIN_ROUTES)}))
def test_paths_of_the_api_belong_to_it_also_with_headers_for_the_agent(path: str) -> None:
    """Some SDKs put the address of the sandbox's agent on a call to the API; only the agent's port is concerned."""
    assert find_address(CIMultiDict(AT_AGENT), path, "api.sbx.test") is None
    for port in ("49999", "8000"):
        assert find_address(CIMultiDict({**AT_AGENT, "E2b-Sandbox-Port": port}), path, "api.sbx.test") == Address("abc", int(port))
    assert find_address(CIMultiDict({"Host": "49983-abc.sbx.test"}), path, "api.sbx.test") == Address("abc", 49983)


@pytest.mark.parametrize(
    "path",
    ["/health", "/metrics", "/files", "/files/compose", "/envs", "/process.Process/Start", "/sandboxesx", "/v22/sandboxes", "//sandboxes"],
)
def test_paths_of_the_agent_stay_its_own(path: str) -> None:
    """Paths that the agent or no part serves reach the agent."""
    assert find_address(CIMultiDict(AT_AGENT), path, "api.sbx.test") == Address("abc", 49983)


@pytest.mark.parametrize("host", ["api.sbx.test", "API.SBX.TEST:8443", "api.sbx.test."])
def test_host_of_the_api_belongs_to_it(host: str) -> None:
    """Whatever headers say, a request to the API's own host is the API's."""
    for port in ("49983", "8000"):
        assert find_address(CIMultiDict({**AT_AGENT, "E2b-Sandbox-Port": port, "Host": host}), "/x", api_host("sbx.test:8443")) is None
    assert find_address(CIMultiDict({**AT_AGENT, "Host": "xapi.sbx.test"}), "/x", api_host("sbx.test")) is not None


@pytest.mark.parametrize("path", ["/execute", "/files", "/process.Process/Start", "/filesystem.Filesystem/ListDir"])
def test_the_console_reaches_sandboxes_at_the_host_of_the_api(path: str) -> None:
    """The console lives at the API's host and cannot ask another one: the agent's ports and these paths only."""
    named = {**AT_AGENT, "Host": "api.sbx.test"}
    for port in ("49983", "49999"):
        assert find_address(CIMultiDict({**named, "E2b-Sandbox-Port": port}), path, "api.sbx.test") == Address("abc", int(port))
    assert find_address(CIMultiDict({**named, "E2b-Sandbox-Port": "8000"}), path, "api.sbx.test") is None
    assert find_address(CIMultiDict({**named}), f"/console{path}", "api.sbx.test") is None
    assert find_address(CIMultiDict({"Host": "api.sbx.test"}), path, "api.sbx.test") is None


@pytest.mark.parametrize("name", ["Host", "E2b-Sandbox-Id", "e2b-sandbox-port"])
def test_client_cannot_give_an_address_twice(name: str) -> None:
    """Two hosts, ids or ports in one request, of which a proxy before this server may have read the other, are refused."""
    headers = CIMultiDict({**AT_AGENT, "Host": "h"})
    headers.add(name, headers[name])
    with pytest.raises(AddressError, match="twice"):
        find_address(headers, "/files", "api.sbx.test")
