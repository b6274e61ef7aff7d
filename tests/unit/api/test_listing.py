"""Filters and pages of sandbox lists."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from cloister.api.listing import parse_list_query, parse_metadata
from cloister.errors import InvalidRequestError
from cloister.model.lifecycle import Lifecycle, TimeoutAction
from cloister.model.sandbox import Sandbox, SandboxState, transition


def row(sandbox_id: str, started_at: float, **metadata: str) -> Sandbox:
    """A running sandbox."""
    return Sandbox(
        sandbox_id=sandbox_id,
        team_id="t",
        template_id="tpl",
        template="base",
        state=SandboxState.RUNNING,
        started_at=started_at,
        end_at=1e10,
        cpu_count=1,
        mem_mib=1,
        disk_mib=1,
        metadata=metadata,
    )


def test_metadata_is_unescaped_thrice() -> None:
    """The filter as it is after the query string's own unescaping gives the names and values that were meant."""
    assert parse_metadata("a%2520b=c%2526d&%25C3%25A9%2525=x%253Dy") == {"a b": "c&d", "é%": "x=y"}


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_have_no_gaps(order: str, limit: int) -> None:
    """Pages cover everything once and in order; those that began at the same instant by id."""
    rows = [row(f"{number:02}", float(number // 3)) for number in range(10)]
    seen: list[str] = []
    token: str | None = ""
    while token is not None:
        page, token = parse_list_query({"order": order, "limit": str(limit), "nextToken": token}).page(rows)
        seen += [found.sandbox_id for found in page]
    latest_first = sorted(rows, key=lambda found: (-found.started_at, found.sandbox_id))
    assert seen == [found.sandbox_id for found in (reversed(latest_first) if order == "asc" else latest_first)]


def test_token_has_the_published_form() -> None:
    """It has the time, the id and the order, and is refused for the other order."""
    rows = [row("b", 1700000000.123456), row("a", 1700000001.0)]
    _, token = parse_list_query({"limit": "1", "order": "asc"}).page(rows)
    assert token is not None
    assert base64.urlsafe_b64decode(token) == b"2023-11-14T22:13:20.123456Z__b__asc"
    with pytest.raises(InvalidRequestError, match="nextToken"):
        parse_list_query({"nextToken": token})
    _, token = parse_list_query({"limit": "1"}).page(rows)
    assert token is not None
    assert base64.urlsafe_b64decode(token) == b"2023-11-14T22:13:21Z__a"
    with pytest.raises(InvalidRequestError, match="nextToken"):
        parse_list_query({"nextToken": token, "order": "asc"})


def test_paused_ones() -> None:
    """A sandbox that is paused, or is about to be, is in the list of paused ones."""
    it = row("a", 100.0)
    it = transition(it, SandboxState.PAUSING)
    due = replace(row("b", 100.0), end_at=1.0, lifecycle=Lifecycle(on_timeout=TimeoutAction.PAUSE))
    for paused in (it, transition(it, SandboxState.PAUSED), due):
        assert parse_list_query({"state": "paused"}).accepts(paused)
        assert parse_list_query({}).accepts(paused)
        assert not parse_list_query({"state": "running"}).accepts(paused)


def test_filters() -> None:
    """State, template, start and metadata each leave out what does not match."""
    it = row("a", 100.0, k="v")
    for query in (
        {},
        {"state": "running"},
        {"template": "base"},
        {"template": "tpl"},
        {"startedAfter": "1970-01-01T00:01:39Z"},
        {"startedAfter": "1970-01-01T00:01:40+00:00"},
        {"metadata": "k=v"},
    ):
        assert parse_list_query(query).accepts(it)
    for query in (
        {"state": "paused"},
        {"template": "x"},
        {"startedAfter": "1970-01-01T00:01:40.000001+00:00"},
        {"metadata": "k=w"},
        {"metadata": "j=v"},
    ):
        assert not parse_list_query(query).accepts(it)


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"template": "base:v1"},
        {"metadata": "k"},
        {"metadata": "k=v=w"},
        {"limit": "101"},
        {"limit": "x"},
        {"state": "dead"},
        {"order": "up"},
        {"startedAfter": "now"},
        {"nextToken": "!"},
    ]
    + [{"nextToken": base64.urlsafe_b64encode(text).decode()} for text in (b"[" * 9000, b"[" + b"9" * 400 + b', "a"]')],
)
def test_bad_queries(query: dict[str, str]) -> None:
    """A wrong parameter is refused by name."""
    with pytest.raises(InvalidRequestError, match=next(iter(query))):
        parse_list_query(query)
