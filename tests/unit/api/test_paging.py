"""Tokens for the next page, which a client may invent."""

from __future__ import annotations

import base64

import pytest

from cloister.api.paging import parse_position, render_cursor
from cloister.errors import InvalidRequestError


def test_a_position_returns_as_it_was() -> None:
    """A token has the time, the owner and the number of a record."""
    assert parse_position({"next": render_cursor([1_000.25, "team_1", 7])}, "next") == (1_000.25, "team_1", 7)
    assert parse_position({}, "next") is None


@pytest.mark.parametrize("text", ['[1, "team_1"]', "[" * 5000, f'[1{"0" * 400}, "team_1", 7]', '[NaN, "team_1", 7]', "7", "null x"])
def test_an_invented_position_is_refused(text: str) -> None:
    """No content of a token is an internal error."""
    with pytest.raises(InvalidRequestError, match="not one of this server's"):
        parse_position({"next": base64.urlsafe_b64encode(text.encode()).decode()}, "next")
