"""REST handler of the record of a sandbox's connections, which is a part of its log. No published API has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from cloister.api.handlers import Api, json_answer, path_sandbox_id
from cloister.api.paging import parse_cursor, parse_limit, parse_number, render_cursor
from cloister.api.schemas import render_time
from cloister.errors import InvalidRequestError
from cloister.model.log import LogEntry
from cloister.model.team import Team

__all__ = ["connections", "render_connection"]

_EVENTS = ("network.connection", "network.refused", "network.refused_others")
_VERDICTS = ("allowed", "refused")


async def connections(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /sandboxes/{sandbox_id}/connections``: from ``since`` (milliseconds, included), oldest first, in pages."""
    query = request.query
    verdict = query.get("verdict") or None
    if verdict not in (None, *_VERDICTS):
        raise InvalidRequestError(f"verdict must be {' or '.join(_VERDICTS)}")
    after, since = parse_cursor(query, "nextToken"), parse_number(query, "since", 0)
    limit = parse_limit(query, default=100, most=1000)
    entries = await api.logs.read(team.team_id, path_sandbox_id(request), ask_agent=False)
    page, more = _page(entries, verdict, max(since, 0 if after is None else after + 1), limit)
    headers = {} if more is None else {"X-Next-Token": more}
    return json_answer([render_connection(entry) for entry in page], headers=headers)


def _page(entries: Sequence[LogEntry], verdict: str | None, first_ms: int, limit: int) -> tuple[list[LogEntry], str | None]:
    """At most ``limit`` records, and the token of the next page. The times of a log's entries differ."""
    found = [entry for entry in entries if _is_record(entry) and entry.at_ms >= first_ms and verdict in (None, _verdict(entry))]
    page = found[:limit]
    return page, render_cursor(page[-1].at_ms) if len(found) > limit else None


def _is_record(entry: LogEntry) -> bool:
    return entry.logger == "node" and entry.event in _EVENTS


def _verdict(entry: LogEntry) -> str:
    return entry.fields.get("verdict", "refused")


def render_connection(entry: LogEntry) -> dict[str, Any]:
    """One record: a connection, or several alike. ``network.refused`` counts packets that the kernel refused, by target."""
    fields = entry.fields
    began_at, duration_s = fields.get("began_at"), fields.get("duration_s")
    return {
        "timestamp": render_time(entry.at_ms / 1000 if began_at is None else float(began_at)),
        "recordedAt": render_time(entry.at_ms / 1000),
        "protocol": fields.get("protocol"),
        "address": fields.get("address", fields.get("destination")),
        "port": int(fields["port"]) if "port" in fields else None,
        "name": fields.get("name"),
        "nameFrom": fields.get("name_from", "connection") if "name" in fields else None,
        "verdict": _verdict(entry),
        "rule": fields.get("rule", fields.get("reason", "others")),
        "sentBytes": int(fields.get("sent_bytes", 0)),
        "receivedBytes": int(fields.get("received_bytes", 0)),
        "durationSeconds": None if duration_s is None else float(duration_s),
        "count": int(fields.get("count", 1)),
    }
