"""Which sandbox and port a request means."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from cloister.proxy.address import Address, AddressError, find_address


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
    assert find_address(CIMultiDict(headers)) == expected


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
        find_address(CIMultiDict(headers))
