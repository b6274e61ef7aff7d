"""Basic authentication names the user that a request acts as."""

from __future__ import annotations

import base64

import pytest

from cloister.agent.auth import basic_user
from cloister.errors import AuthenticationError


@pytest.mark.parametrize(
    ("header", "user"),
    [
        (None, None),
        ("Bearer token", None),
        ("Basic " + base64.b64encode(b"vera:").decode(), "vera"),
        ("basic  " + base64.b64encode("zoë:a:b".encode()).decode(), "zoë"),
        ("Basic " + base64.b64encode(b":password").decode(), None),
    ],
)
def test_user_is_the_part_before_the_colon(header: str | None, user: str | None) -> None:
    """The scheme has any case, the password is ignored, and no name is no user."""
    assert basic_user(header) == user


@pytest.mark.parametrize("value", ["%%%", "dmVyYTo", "/w=="])
def test_a_header_that_is_not_valid_is_refused(value: str) -> None:
    """Bad base64 and bytes that are not UTF-8 are an error, not the default user."""
    with pytest.raises(AuthenticationError):
        basic_user(f"Basic {value}")
