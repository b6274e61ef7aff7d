"""Moments on the command line: how they are given, and how they are shown."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from cloister.errors import InvalidRequestError

__all__ = ["moment", "parse_expiry", "parse_since"]

_SPAN = re.compile(r"(\d{1,9})([smhdw])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DATES = "a date (UTC), such as 2030-01-31 or 2030-01-31T12:00:00Z"


def parse_expiry(text: str, now: float | None = None) -> float:
    """The moment (epoch seconds) of an option ``--expires``: a time from ``now`` on, or a date. Raises: InvalidRequestError."""
    now = time.time() if now is None else now
    hint = f"give a time from now, such as 12h, 30d or 8w, or {_DATES}"
    at = _parse("--expires", text, now, 1, hint)
    if not now < at < datetime.max.replace(tzinfo=UTC).timestamp():
        raise InvalidRequestError(f"--expires {text[:100]!r} is not in the future, or too far in it", hint=hint)
    return at


def parse_since(text: str, now: float | None = None) -> float:
    """The moment (epoch seconds) of an option ``--since``: an age at ``now``, or a date. Raises: InvalidRequestError."""
    return _parse("--since", text, time.time() if now is None else now, -1, f"give an age, such as 30m, 12h or 7d, or {_DATES}")


def _parse(option: str, text: str, now: float, direction: int, hint: str) -> float:
    if (match := _SPAN.match(text)) is not None:
        return now + direction * int(match[1]) * _SECONDS[match[2]]
    try:
        parsed = datetime.fromisoformat(text)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError(f"{option} {text[:100]!r} is no time", hint=hint) from error


def moment(at: float | None) -> str | None:
    """Epoch seconds as RFC 3339, UTC; None: none."""
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
