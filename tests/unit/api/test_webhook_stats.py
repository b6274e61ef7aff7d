"""Counts of attempts as the API shows them."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp.test_utils import make_mocked_request

from cloister.api.handlers import Api
from cloister.api.webhook_stats import render_stats, stats
from cloister.errors import InvalidRequestError
from cloister.model.event import AttemptCount
from cloister.model.team import Team

TEAM = cast("Team", SimpleNamespace(team_id="team"))


def span(began_at: int, failed: int = 0, *durations_ms: int) -> AttemptCount:
    """A span with attempts of these durations."""
    least, most, total = min(durations_ms), max(durations_ms), sum(durations_ms)
    return AttemptCount(began_at=began_at, total=len(durations_ms), failed=failed, least_ms=least, most_ms=most, sum_ms=total)


async def ask(query: str) -> tuple[dict[str, Any], tuple[float, float]]:
    """The answer to a request, and the time that was asked for."""
    asked: list[tuple[float, float]] = []

    async def attempts(team_id: str, webhook_id: str, start: float, end: float) -> list[AttemptCount]:
        assert (team_id, webhook_id) == ("team", "w")
        asked.append((start, end))
        return []

    api = SimpleNamespace(deliveries=SimpleNamespace(webhooks=SimpleNamespace(attempts=attempts)))
    request = make_mocked_request("GET", f"/events/webhooks/w/stats{query}", match_info={"webhook_id": "w"})
    answer = await stats(cast("Api", api), request, TEAM)
    assert isinstance(answer.body, bytes)
    return json.loads(answer.body), asked[0]


def test_buckets_are_sums_of_spans() -> None:
    """Of five minutes for a day, and of some hours for a month."""
    found = [span(600, 1, 2, 4), span(900, 0, 9), span(86_400, 1, 1)]
    shown = render_stats(found, 86_400)
    durations = {"minimum": 1, "average": 4.0, "maximum": 9}
    assert {name: shown[name] for name in ("total", "failed", "durationMs")} == {"total": 4, "failed": 2, "durationMs": durations}
    assert [(one["timestamp"], one["total"], one["failed"], one["durationMs"]["average"]) for one in shown["buckets"]] == [
        ("1970-01-01T00:10:00.000Z", 2, 1, 3.0),
        ("1970-01-01T00:15:00.000Z", 1, 0, 9.0),
        ("1970-01-02T00:00:00.000Z", 1, 1, 1.0),
    ]
    month = render_stats(found, 31 * 86_400)["buckets"]
    assert [(one["timestamp"], one["total"]) for one in month] == [("1970-01-01T00:00:00.000Z", 3), ("1970-01-02T00:00:00.000Z", 1)]


@pytest.mark.parametrize(
    "query", ["?start=600&end=1800", "?start=600000000000&end=600001200000", "?start=1970-01-01T00:10:00Z&end=1970-01-01T00:30:00Z"]
)
async def test_times_are_read_in_each_form(query: str) -> None:
    """Seconds, milliseconds, and text. No attempts are zeros."""
    shown, (start, end) = await ask(query)
    assert (start % 6e8, end - start) == (600 % 6e8 if start < 1e6 else 0, 1200)
    assert shown == {"buckets": [], "total": 0, "failed": 0, "durationMs": {"minimum": 0, "average": 0.0, "maximum": 0}}


async def test_the_last_day_is_the_default() -> None:
    """From the span in which it began."""
    _, (start, end) = await ask("")
    assert abs(end - time.time()) < 60
    assert 86_400 <= end - start <= 86_700


@pytest.mark.parametrize("query", ["?start=x", "?end=2030-01-01", "?start=9&end=9", "?start=9&end=8", "?start=0&end=2700000", "?start=-1"])
async def test_other_times_are_refused(query: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(InvalidRequestError):
        await ask(query)
