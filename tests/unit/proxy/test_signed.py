"""Whose a signed file URL without a sandbox id is."""

from __future__ import annotations

import pytest
from e2b.sandbox.signature import get_signature

from cloister.proxy.signed import find_signer, signed_request

TOKENS = [("one", "token-1"), ("two", "token-2"), ("three", "token-3")]


def query(path: str, operation: str, token: str, user: str | None = None) -> dict[str, str]:
    """The query of a URL as the official SDK makes it."""
    made = get_signature(path, operation, user, token)  # type: ignore[arg-type]
    return {"path": path, "signature": made["signature"]} | ({"username": user} if user else {})


@pytest.mark.parametrize("user", [None, "root"])
def test_the_signer_is_found(user: str | None) -> None:
    """The sandbox is the one whose token makes the signature."""
    request = signed_request("GET", "/files", query("/a b/é", "read", "token-2", user), {})
    assert request is not None
    assert find_signer(request, TOKENS) == "two"


def test_another_operation_has_another_signature() -> None:
    """A URL for reading does not write, and the other way round; a preflight counts as what it asks for."""
    signed = query("/x", "read", "token-1")
    writing = signed_request("POST", "/files", signed, {})
    preflight = signed_request("OPTIONS", "/files", signed, {"Access-Control-Request-Method": "GET"})
    assert writing is not None
    assert find_signer(writing, TOKENS) is None
    assert preflight is not None
    assert find_signer(preflight, TOKENS) == "one"


@pytest.mark.parametrize(
    ("method", "path", "given"),
    [
        ("GET", "/files", {"path": "/x"}),
        ("GET", "/files/compose", {"signature": "v1_x"}),
        ("GET", "/sandboxes", {"signature": "v1_x"}),
        ("DELETE", "/files", {"signature": "v1_x"}),
        ("OPTIONS", "/files", {"signature": "v1_x"}),
    ],
)
def test_other_requests_are_not_signed_ones(method: str, path: str, given: dict[str, str]) -> None:
    """Only reads and writes of /files with a signature are taken from the API."""
    assert signed_request(method, path, given, {}) is None
