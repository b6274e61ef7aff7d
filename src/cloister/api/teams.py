"""REST handlers of the caller's own team: parse, call control, render. Another team's id is answered as one that does not exist."""

from __future__ import annotations

import time

from aiohttp import web

from cloister.api.auth import given_key
from cloister.api.handlers import Api, json_answer
from cloister.api.paging import parse_number
from cloister.api.schemas import render_team, render_time
from cloister.errors import InvalidRequestError, NotFoundError
from cloister.model.team import Team

__all__ = ["highest", "list_teams", "metrics"]

_METRICS = ("concurrent_sandboxes", "sandbox_start_rate")


async def list_teams(_api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /teams``: the team of the request's key."""
    return json_answer([render_team(team, given_key(request) or "")])


async def metrics(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /teams/{team_id}/metrics``: sandboxes at once and creations a second, oldest point first."""
    points = await api.team_metrics.points(_own(request, team), *_range(request))
    return json_answer(
        [
            {
                "timestamp": render_time(point.at),
                "timestampUnix": int(point.at),
                "concurrentSandboxes": point.peak,
                "sandboxStartRate": round(point.starts_per_s, 6),
            }
            for point in points
        ]
    )


async def highest(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /teams/{team_id}/metrics/max``: the highest value of one metric, and when it was."""
    team_id, metric = _own(request, team), request.query.get("metric")
    if metric not in _METRICS:
        raise InvalidRequestError("metric is missing or unknown", hint=f"give one of {', '.join(_METRICS)}")
    most, fastest = await api.team_metrics.highest(team_id, *_range(request))
    point, value = (most, most and most.peak) if metric == _METRICS[0] else (fastest, fastest and round(fastest.starts_per_s, 6))
    at = time.time() if point is None else point.at
    return json_answer({"timestamp": render_time(at), "timestampUnix": int(at), "value": value or 0})


def _own(request: web.Request, team: Team) -> str:
    if request.match_info["team_id"] != team.team_id:
        raise NotFoundError("there is no such team", hint="GET /teams has the id of your team")
    return team.team_id


def _range(request: web.Request) -> tuple[float | None, float | None]:
    """``start`` and ``end`` of the query, in epoch seconds. Raises: InvalidRequestError."""
    start, end = (parse_number(request.query, name, -1) for name in ("start", "end"))
    return None if start < 0 else float(start), None if end < 0 else float(end)
