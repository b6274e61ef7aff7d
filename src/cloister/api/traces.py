"""Spans of requests to the API, whose key was checked; a creation gets the supervisor's steps as children."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import structlog
from aiohttp import web

from cloister.api.handlers import SANDBOX_ID, TEAM_ID
from cloister.control.sandboxes import Sandboxes
from cloister.errors import CloisterError
from cloister.telemetry.traceparent import TRACEPARENT
from cloister.telemetry.tracing import Span, Tracer

__all__ = ["RequestTraces"]

_log = structlog.get_logger("cloister.api")
_CREATIONS = ("/sandboxes", "/v2/sandboxes")


class RequestTraces:
    """Records requests. Event loop only."""

    def __init__(self, tracer: Tracer, sandboxes: Sandboxes) -> None:
        self._tracer = tracer
        self._sandboxes = sandboxes
        self._tasks: set[asyncio.Task[Any]] = set()

    def completed(self, request: web.Request, status: int, seconds: float) -> None:
        """A request was answered, or its client went away: ``status`` is 0."""
        team_id, resource = request.get(TEAM_ID), request.match_info.route.resource
        if team_id is None or resource is None:
            return  # a request without a valid key adds nothing to any trace
        route, now = resource.canonical, time.time()
        attributes = {"http.request.method": request.method, "http.route": route, "cloister.team_id": team_id}
        span = self._tracer.begin(f"{request.method} {route}", request.headers.get(TRACEPARENT), now - seconds, attributes)
        if span is None:
            return
        sandbox_id = request.get(SANDBOX_ID)
        if sandbox_id is not None and status == 201 and route in _CREATIONS:
            task = asyncio.create_task(self._end_creation(span, sandbox_id, now))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            span.end(now, {"http.response.status_code": status}, failed=status == 0 or status >= 500)

    async def _end_creation(self, span: Span, sandbox_id: str, ended_at: float) -> None:
        try:
            for step in await self._sandboxes.creation_steps(sandbox_id):
                span.add_child(f"supervisor: {step.name}", step.began_at, step.began_at + step.seconds)
        except CloisterError as error:
            _log.warning("trace.without_steps", sandbox_id=sandbox_id, error=str(error))
        span.end(ended_at, {"http.response.status_code": 201, "cloister.sandbox_id": sandbox_id}, failed=False)

    async def close(self) -> None:
        """End the spans under way. Call it before the tracer is closed."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
