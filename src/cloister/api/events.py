"""REST handlers of lifecycle events: parse, call control, render. Source: the vendor's documentation, "Lifecycle events API"."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from aiohttp import web

from cloister.api.handlers import Api, json_answer, path_sandbox_id
from cloister.api.paging import parse_limit, parse_number
from cloister.api.schemas import render_time
from cloister.errors import InvalidRequestError
from cloister.model.event import EventType, LifecycleEvent
from cloister.model.team import Team

__all__ = ["list_events", "list_of_sandbox", "parse_types"]

_DEFAULT_LIMIT = 10


async def list_events(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /events/sandboxes``: the latest first, or the oldest with ``orderAsc=true``."""
    return await _list(api, request, team, None)


async def list_of_sandbox(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /events/sandboxes/{sandbox_id}``; empty for a sandbox that the team never had."""
    return await _list(api, request, team, path_sandbox_id(request))


async def _list(api: Api, request: web.Request, team: Team, sandbox_id: str | None) -> web.Response:
    query = request.query
    order = query.get("orderAsc", "false").lower()
    if order not in {"true", "false"}:
        raise InvalidRequestError("orderAsc must be true or false")
    texts = [text for value in query.getall("types", []) for text in value.split(",") if text]
    events = await api.deliveries.events.list(
        team.team_id,
        sandbox_id=sandbox_id,
        types=parse_types("types", texts),
        offset=parse_number(query, "offset", 0),
        limit=parse_limit(query, default=_DEFAULT_LIMIT),
        oldest_first=order == "true",
    )
    return json_answer([_render(event) for event in events])


def parse_types(field: str, texts: Collection[str]) -> tuple[EventType, ...]:
    """The types that are named, each once. Raises: InvalidRequestError."""
    try:
        return tuple(dict.fromkeys(EventType(text) for text in texts))
    except ValueError as error:
        raise InvalidRequestError(f"{field} may have {', '.join(EventType)}") from error


def _render(event: LifecycleEvent) -> dict[str, Any]:
    """``SandboxEvent`` of the contract."""
    return {
        "id": event.event_id,
        "version": "v2",
        "type": event.type.value,
        "timestamp": render_time(event.at),
        "eventData": event.data,
        "sandboxId": event.sandbox_id,
        "sandboxBuildId": event.build_id,
        "sandboxExecutionId": event.execution_id,
        "sandboxTemplateId": event.template_id,
        "sandboxTeamId": event.team_id,
    }
