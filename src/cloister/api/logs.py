"""REST handlers of sandboxes' logs, in the two forms of the published API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from cloister.api.handlers import Api, json_answer, path_sandbox_id
from cloister.api.schemas import render_time
from cloister.errors import InvalidRequestError
from cloister.model.log import LogEntry
from cloister.model.team import Team
from cloister.protocol.events import LOG_LEVELS

__all__ = ["logs", "logs_v2", "render_line", "select"]

_DEFAULT_LIMIT = 1000
_MAX_LIMIT = 1000
_HIDDEN = frozenset({"agent_id", "sequence"})
"""Internal fields for resuming, of no use to a client."""


async def _read(api: Api, request: web.Request, team: Team) -> list[LogEntry]:
    return await api.logs.read(team.team_id, path_sandbox_id(request))


async def logs(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /sandboxes/{sandbox_id}/logs``: from ``start`` (milliseconds, included), oldest first."""
    start, limit = _whole(request, "start", 0), _whole(request, "limit", _DEFAULT_LIMIT)
    found = [entry for entry in await _read(api, request, team) if entry.at_ms >= start][: min(limit, _MAX_LIMIT)]
    lines = [{"timestamp": render_time(entry.at_ms / 1000), "line": render_line(entry)} for entry in found]
    return json_answer({"logs": lines, "logEntries": [_render(entry) for entry in found]})


async def logs_v2(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /v2/sandboxes/{sandbox_id}/logs``: forward from ``cursor`` (milliseconds), or backward without one."""
    direction = request.query.get("direction") or "forward"
    level = request.query.get("level") or LOG_LEVELS[0]
    if direction not in {"forward", "backward"}:
        raise InvalidRequestError("direction must be forward or backward")
    if level not in LOG_LEVELS:
        raise InvalidRequestError(f"level must be one of {', '.join(LOG_LEVELS)}")
    limit = _whole(request, "limit", _DEFAULT_LIMIT)
    if limit > _MAX_LIMIT:
        raise InvalidRequestError(f"limit must not be more than {_MAX_LIMIT}")
    cursor = _whole(request, "cursor", -1)
    entries = select(
        await _read(api, request, team),
        cursor=None if cursor < 0 else cursor,
        backward=direction == "backward",
        level=level,
        search=request.query.get("search", ""),
    )
    return json_answer({"logs": [_render(entry) for entry in entries[:limit]]})


def select(entries: Sequence[LogEntry], *, cursor: int | None, backward: bool, level: str, search: str) -> list[LogEntry]:
    """The requested entries in the requested order. All times in one log differ, so pages neither overlap nor leave gaps."""
    levels = LOG_LEVELS[LOG_LEVELS.index(level) :]
    found = [entry for entry in entries if entry.level in levels and search in _message(entry)]
    if backward:
        return [entry for entry in reversed(found) if cursor is None or entry.at_ms < cursor]
    return [entry for entry in found if cursor is None or entry.at_ms >= cursor]


def _fields(entry: LogEntry) -> dict[str, str]:
    return {name: value for name, value in entry.fields.items() if name not in _HIDDEN}


def _message(entry: LogEntry) -> str:
    detail = " ".join(f"{name}={value}" for name, value in _fields(entry).items())
    return entry.event.replace(".", " ").replace("_", " ") + (f": {detail}" if detail else "")


def _render(entry: LogEntry) -> dict[str, Any]:
    """``SandboxLogEntry`` of the contract."""
    fields = {**_fields(entry), "event": entry.event, "logger": entry.logger}
    return {"timestamp": render_time(entry.at_ms / 1000), "message": _message(entry), "level": entry.level, "fields": fields}


def render_line(entry: LogEntry) -> str:
    """The line that the command line client parses. The fixed names come last, so that no field replaces them."""
    return json.dumps({**_fields(entry), "event": entry.event, "logger": entry.logger, "level": entry.level})


def _whole(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise InvalidRequestError(f"{name} must be a whole number, not negative")
    return int(text)
