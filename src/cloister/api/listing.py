"""Filters and pages of sandbox lists: query strings to predicates, positions to tokens. No I/O."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, unquote

from cloister.errors import InvalidRequestError
from cloister.store.base import Sandbox

__all__ = ["ListQuery", "parse_list_query", "parse_metadata"]

_MAX_LIMIT = 100
_STATES = frozenset({"running", "paused"})


@dataclass(frozen=True, kw_only=True)
class ListQuery:
    """What to list, in which order, and from where on."""

    metadata: dict[str, str]
    states: frozenset[str]
    template: str | None
    started_after: float | None
    ascending: bool
    limit: int
    position: tuple[float, str] | None

    def accepts(self, row: Sandbox) -> bool:
        """Whether the filters hold for a running sandbox."""
        return (
            "running" in self.states
            and all(row.metadata.get(key) == value for key, value in self.metadata.items())
            and (self.template is None or self.template in {row.template_id, row.template})
            and (self.started_after is None or row.started_at > self.started_after)
        )

    def page(self, rows: Sequence[Sandbox]) -> tuple[list[Sandbox], str | None]:
        """The page of ``rows`` that begins after the position, and the token of the next one, if there is more."""
        sign = 1 if self.ascending else -1
        ordered = sorted(rows, key=lambda row: (sign * row.started_at, row.sandbox_id))
        if self.position is not None:
            after = (sign * self.position[0], self.position[1])
            ordered = [row for row in ordered if (sign * row.started_at, row.sandbox_id) > after]
        page = ordered[: self.limit]
        if len(ordered) <= self.limit:
            return page, None
        last = page[-1]
        return page, base64.urlsafe_b64encode(json.dumps([last.started_at, last.sandbox_id]).encode()).decode()


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
    return ListQuery(
        metadata=parse_metadata(query.get("metadata", "")),
        states=states,
        template=query.get("template") or None,
        started_after=_parse_time(query["startedAfter"]) if query.get("startedAfter") else None,
        ascending=order == "asc",
        limit=_parse_limit(query.get("limit", "")),
        position=_parse_token(query["nextToken"]) if query.get("nextToken") else None,
    )


def parse_metadata(text: str) -> dict[str, str]:
    """The ``metadata`` filter: a query string whose names and values are escaped once more than usual.

    ``text`` has been unescaped once, as a parameter of the request's own query string.
    """
    return {unquote(key): unquote(value) for key, value in parse_qsl(text, keep_blank_values=True)}


def _parse_limit(text: str) -> int:
    try:
        limit = int(text or _MAX_LIMIT)
    except ValueError as error:
        raise InvalidRequestError("limit must be a whole number") from error
    if not 1 <= limit <= _MAX_LIMIT:
        raise InvalidRequestError(f"limit must be between 1 and {_MAX_LIMIT}")
    return limit


def _parse_time(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequestError("startedAfter must be an RFC 3339 time") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _parse_token(token: str) -> tuple[float, str]:
    try:
        started_at, sandbox_id = json.loads(base64.urlsafe_b64decode(token))
        return float(started_at), str(sandbox_id)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidRequestError("nextToken is not one of this server's") from error
