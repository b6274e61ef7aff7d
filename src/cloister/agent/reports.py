"""``GET /logs``: reports the agent's events to the server. Internal (the ingress answers 404 for it).

Both ports have the route, so that the server can use a connection that it has already. Pages have a bounded size, oldest event first.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from cloister.agent.events import EventLog

__all__ = ["report_events"]

_EVENTS_PER_PAGE = 500


def report_events(events: EventLog, request: web.Request) -> web.Response:
    """The events from number ``since`` on, or all if ``agent_id`` is not this run of the agent."""
    since = request.query.get("since", "0")
    known = since.isdecimal() and len(since) < 16 and request.query.get("agent_id") == events.agent_id
    page: list[dict[str, Any]] = [
        {"sequence": event.sequence, "at": event.at_s, "kind": event.kind, "fields": event.fields}
        for event in events.since(int(since) if known else 0)[:_EVENTS_PER_PAGE]
    ]
    return web.json_response({"agent_id": events.agent_id, "events": page})
