"""REST handler of the counts of a webhook's attempts, in the published form."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from aiohttp import web

from cloister.api.handlers import Api, json_answer
from cloister.api.schemas import render_time
from cloister.errors import InvalidRequestError
from cloister.model.event import ATTEMPTS_SPAN_S, AttemptCount
from cloister.model.team import Team

__all__ = ["render_stats", "stats"]

_DAY_S = 86_400.0
_LONGEST_S = 31 * _DAY_S
_MOST_BUCKETS = 300
_STEPS_S = (ATTEMPTS_SPAN_S, 900, 3600, 10_800)
"""Lengths of buckets. The last is long enough for the longest time."""
_LEAST_MS = 1e11
"""A number of seconds is below this until the year 5138, one of milliseconds above since 1973."""
_DIGITS = 13


async def stats(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /events/webhooks/{webhook_id}/stats``: attempts from ``start`` to ``end``, by default those of the last day."""
    end = _time(request.query, "end", time.time())
    start = _time(request.query, "start", end - _DAY_S)
    if not 0 < end - start <= _LONGEST_S:
        raise InvalidRequestError("start must be before end, by 31 days at most")
    found = await api.deliveries.webhooks.attempts(
        team.team_id, request.match_info["webhook_id"], start // ATTEMPTS_SPAN_S * ATTEMPTS_SPAN_S, end
    )
    return json_answer(render_stats(found, end - start))


def render_stats(found: Sequence[AttemptCount], length_s: float) -> dict[str, Any]:
    """Buckets of equal length; those without an attempt are left out."""
    step_s = next((step_s for step_s in _STEPS_S if length_s <= step_s * _MOST_BUCKETS), _STEPS_S[-1])
    buckets: dict[int, list[AttemptCount]] = {}
    for one in found:
        buckets.setdefault(one.began_at // step_s * step_s, []).append(one)
    return {"buckets": [{"timestamp": render_time(at), **_sum(ones)} for at, ones in buckets.items()], **_sum(found)}


def _sum(ones: Iterable[AttemptCount]) -> dict[str, Any]:
    """All zeros for no attempts."""
    ones = tuple(ones)
    total = sum(one.total for one in ones)
    durations = {
        "minimum": min((one.least_ms for one in ones), default=0),
        "average": round(sum(one.sum_ms for one in ones) / max(1, total), 1),
        "maximum": max((one.most_ms for one in ones), default=0),
    }
    return {"total": total, "failed": sum(one.failed for one in ones), "durationMs": durations}


def _time(query: Mapping[str, str], name: str, default: float) -> float:
    """A time with its zone (RFC 3339), or a number of seconds or milliseconds since 1970. Raises: InvalidRequestError."""
    text = query.get(name)
    if not text:
        return default
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS:
        number = float(text)
        return number / 1000 if number >= _LEAST_MS else number
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise ValueError
        return at.timestamp()
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError(f"{name} must be a time with its zone, such as 2030-01-31T12:00:00Z, or a number of seconds") from error
