"""Filters and pages of sandbox lists: parses query strings to predicates, and positions to tokens. No I/O."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote, unquote_plus

from cloister.api.schemas import is_running
from cloister.errors import InvalidRequestError
from cloister.model.sandbox import Sandbox

__all__ = ["ListQuery", "parse_list_query", "parse_metadata"]

_MAX_LIMIT = 100
_STATES = frozenset({"running", "paused"})
_TOKEN = re.compile(r"([^_]{1,64})__([a-z0-9]{1,64})(__asc)?")
_MAX_TOKEN = 256


@dataclass(frozen=True, kw_only=True)
class ListQuery:
    """A query: filters, order, and the position to start from."""

    metadata: dict[str, str]
    states: frozenset[str]
    template: str | None
    started_after: int | None
    """In microseconds since the epoch, as all times here; a sandbox that started then belongs to the list."""
    ascending: bool
    limit: int
    position: tuple[int, str] | None

    def accepts(self, row: Sandbox) -> bool:
        """Whether a sandbox that runs or is paused matches the filters."""
        return (
            ("running" if is_running(row) else "paused") in self.states
            and all(row.metadata.get(key) == value for key, value in self.metadata.items())
            and (self.template is None or self.template in {row.template_id, row.template})
            and (self.started_after is None or _microseconds(row.started_at) >= self.started_after)
        )

    def page(self, rows: Sequence[Sandbox]) -> tuple[list[Sandbox], str | None]:
        """The page of ``rows`` after the position, and the token of the next page, if there is one.

        The latest first, and then by id; an ascending list is the same one backwards.
        """
        ordered = sorted(rows, key=lambda row: _place(_microseconds(row.started_at), row.sandbox_id), reverse=self.ascending)
        if self.position is not None:
            last = _place(*self.position)
            places = [_place(_microseconds(row.started_at), row.sandbox_id) for row in ordered]
            ordered = [row for row, place in zip(ordered, places, strict=True) if (place < last if self.ascending else place > last)]
        page = ordered[: self.limit]
        return page, _token(page[-1], ascending=self.ascending) if len(ordered) > self.limit else None


def _place(started_us: int, sandbox_id: str) -> tuple[int, str]:
    return -started_us, sandbox_id


def _microseconds(at: float) -> int:
    return round(at * 1_000_000)


def _token(row: Sandbox, *, ascending: bool) -> str:
    started_us = _microseconds(row.started_at)
    moment = datetime.fromtimestamp(started_us // 1_000_000, UTC).replace(microsecond=started_us % 1_000_000)
    text = f"{moment.isoformat().replace('+00:00', 'Z')}__{row.sandbox_id}{'__asc' if ascending else ''}"
    return base64.urlsafe_b64encode(text.encode()).decode()


def parse_list_query(query: Mapping[str, str]) -> ListQuery:
    """The query of ``GET /v2/sandboxes``.

    Raises:
        InvalidRequestError: names the parameter that is wrong.
    """
    states = frozenset(filter(None, query.get("state", "").split(","))) or _STATES
    if not states <= _STATES:
        raise InvalidRequestError(f"state must be of: {', '.join(sorted(_STATES))}")
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise InvalidRequestError("order must be asc or desc")
    template = query.get("template") or None
    if template is not None and ":" in template:
        raise InvalidRequestError("template must be an id or a name, without a tag")
    return ListQuery(
        metadata=parse_metadata(query.get("metadata", "")),
        states=states,
        template=template,
        started_after=_parse_time(query["startedAfter"]) if query.get("startedAfter") else None,
        ascending=order == "asc",
        limit=_parse_limit(query.get("limit", "")),
        position=_parse_token(query["nextToken"], ascending=order == "asc") if query.get("nextToken") else None,
    )


def parse_metadata(text: str) -> dict[str, str]:
    """The ``metadata`` filter: a query string whose names and values are escaped twice.

    ``text`` was unescaped once, as a parameter of the request's query string. Raises: InvalidRequestError: a pair has not exactly one "=".
    """
    pairs = [pair.split("=") for pair in text.split("&") if pair]
    if any(len(pair) != 2 for pair in pairs):
        raise InvalidRequestError("metadata must be of the form name=value&name=value")
    return {unquote(unquote_plus(key)): unquote(unquote_plus(value)) for key, value in pairs}


def _parse_limit(text: str) -> int:
    try:
        limit = int(text or _MAX_LIMIT)
    except ValueError as error:
        raise InvalidRequestError("limit must be a whole number") from error
    if not 1 <= limit <= _MAX_LIMIT:
        raise InvalidRequestError(f"limit must be between 1 and {_MAX_LIMIT}")
    return limit


def _parse_time(text: str) -> int:
    try:
        return _moment(text)
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError("startedAfter must be an RFC 3339 time") from error


def _moment(text: str) -> int:
    """An RFC 3339 time in microseconds since the epoch. Raises: ValueError, OverflowError."""
    moment = datetime.fromisoformat(text)
    return _microseconds((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _parse_token(token: str, *, ascending: bool) -> tuple[int, str]:
    try:
        match = _TOKEN.fullmatch(base64.b64decode(token[:_MAX_TOKEN], altchars=b"-_", validate=True).decode())
        if match is not None and bool(match[3]) == ascending:
            return _moment(match[1]), match[2]
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError("nextToken is not one of this server's") from error
    raise InvalidRequestError("nextToken is not one of this server's, or is of a list in the other order")
