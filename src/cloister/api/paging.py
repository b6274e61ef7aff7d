"""Pages of lists, except of sandboxes: limits, and tokens for the next page. No I/O."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from cloister.errors import InvalidRequestError

__all__ = ["parse_cursor", "parse_limit", "parse_number", "parse_position", "render_cursor", "take_page"]

_T = TypeVar("_T")
_MAX_NUMBER = 1 << 53


def parse_number(query: Mapping[str, str], name: str, default: int) -> int:
    """Parse a whole number that is not negative. Raises: InvalidRequestError."""
    text = query.get(name)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 16 or int(text) > _MAX_NUMBER:
        raise InvalidRequestError(f"{name} must be a whole number, not negative")
    return int(text)


def parse_limit(query: Mapping[str, str], name: str = "limit", *, default: int = 100, most: int = 100) -> int:
    """The requested number of items. Raises: InvalidRequestError."""
    limit = parse_number(query, name, default)
    if not 1 <= limit <= most:
        raise InvalidRequestError(f"{name} must be between 1 and {most}")
    return limit


def render_cursor(position: list[Any] | int) -> str:
    """A position as a token for clients."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def parse_cursor(query: Mapping[str, str], name: str) -> int | None:
    """The number in a cursor; None: from the beginning. Raises: InvalidRequestError."""
    position = _decode(query.get(name), name)
    if position is None or (isinstance(position, int) and not isinstance(position, bool) and 0 <= position <= _MAX_NUMBER):
        return position
    raise InvalidRequestError(f"{name} is not one of this server's")


def parse_position(query: Mapping[str, str], name: str) -> tuple[float, str, int] | None:
    """The time, owner and number in a cursor; None: from the beginning. Raises: InvalidRequestError."""
    match _decode(query.get(name), name):
        case None:
            return None
        case [int() | float() as at, str() as owner, int() as number] if -_MAX_NUMBER <= at <= _MAX_NUMBER:
            return float(at), owner, number
        case _:
            raise InvalidRequestError(f"{name} is not one of this server's")


def take_page(items: Sequence[tuple[tuple[float, str], _T]], query: Mapping[str, str]) -> tuple[list[_T], str | None]:
    """At most ``limit`` of ``items`` (with times and ids) from ``nextToken``, latest first; and the token of the next page."""
    limit, position = parse_limit(query), _decode(query.get("nextToken"), "nextToken")
    ordered = sorted(items, key=lambda item: (-item[0][0], item[0][1]))
    if position is not None:
        match position:
            case [int() | float() as at, str() as last]:
                ordered = [item for item in ordered if (-item[0][0], item[0][1]) > (-at, last)]
            case _:
                raise InvalidRequestError("nextToken is not one of this server's")
    page = ordered[:limit]
    more = render_cursor(list(page[-1][0])) if len(ordered) > limit else None
    return [item for _, item in page], more


def _decode(text: str | None, name: str) -> object:
    if not text:
        return None
    try:
        return json.loads(base64.urlsafe_b64decode(text))
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{name} is not one of this server's") from error
