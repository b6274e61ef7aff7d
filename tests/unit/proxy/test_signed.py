"""Whose a signed file URL without a sandbox id is."""

from __future__ import annotations

import time

import pytest
from e2b.sandbox.signature import get_signature

from cloister.proxy.signed import find_holder, find_signer, shown_token, signed_request

TOKENS = [("one", "token-1"), ("two", "token-2"), ("three", "token-3")]


def query(path: str, operation: str, token: str, user: str | None = None) -> dict[str, str]:
    """The query of a URL as the official SDK makes it."""
    made = get_signature(path, operation, user, token)  # type: ignore[arg-type]  # parametrized as text
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


def test_client_cannot_have_its_url_hashed_for_each_sandbox() -> None:
    """A stranger's long URL costs hardly more than a short one, however many sandboxes run."""
    tokens = [(str(number), "t" * 64) for number in range(1000)]
    took: dict[int, list[float]] = {10: [], 50_000: []}
    for _ in range(5):
        for length, times in took.items():
            request = signed_request("GET", "/files", {"path": "p" * length, "signature": "v1_x"}, {})
            assert request is not None
            began = time.perf_counter()
            assert find_signer(request, tokens) is None
            times.append(time.perf_counter() - began)
    assert min(took[50_000]) < 3 * min(took[10])


def test_an_expiration_that_is_none_signs_nothing() -> None:
    """The text after the token must be a time, which is short, or no token is tried."""
    made = get_signature("/x", "read", None, "token-1", 60)
    given = {"path": "/x", "signature": made["signature"], "signature_expiration": str(made["expiration"])}
    signed = signed_request("GET", "/files", given, {})
    assert signed is not None
    assert find_signer(signed, TOKENS) == "one"
    for expiration in ("", "x", "1" * 21, "1\n"):
        request = signed_request("GET", "/files", {**given, "signature_expiration": expiration}, {})
        assert request is not None
        assert find_signer(request, iter(lambda: pytest.fail("a token was tried"), None)) is None


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/files", "t"),
        ("/files/compose", "t"),
        ("/health", "t"),
        ("/process.Process/Start", "t"),
        ("/filesystem.Filesystem/Stat", "t"),
        ("/sandboxes", ""),
        ("/filesx", ""),
        ("/process.Process/../init", ""),
        ("/init", ""),
        ("/execute", ""),
    ],
)
def test_tokens_are_looked_for_on_the_agents_paths(path: str, shown: str) -> None:
    """A token counts where the agent serves clients, and nowhere else."""
    assert shown_token(path, {"X-Access-Token": "t"}) == shown
    assert not shown_token(path, {})


def test_client_cannot_learn_a_token_by_the_time_a_guess_takes() -> None:
    """Every token is compared, whichever is the right one, and a part of a token, or more than it, is none."""
    for token, holder in (("token-1", "one"), ("token-3", "three"), ("token-", None), ("token-11", None), ("token-\udcff", None)):
        rest = iter(TOKENS)
        assert find_holder(token, rest) == holder
        assert next(rest, None) is None
