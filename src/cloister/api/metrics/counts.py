"""Counts requests in the api process: those to the API, and those to sandboxes. Event loop only.

Counting one takes about two microseconds. Invariant: keys are routes, classes and words of this server, never parts of a request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from cloister.model.durations import REQUEST_BOUNDS_S, Durations
from cloister.protocol.agent import AGENT_PORT, INTERPRETER_PORT

__all__ = ["Meters", "RequestCounts", "TrafficCounts"]

_UNMATCHED = ("any", "unmatched")
_PORTS = {AGENT_PORT: "agent", INTERPRETER_PORT: "interpreter"}


def _status_class(status: int) -> str:
    return f"{status // 100}xx" if 100 <= status < 600 else "aborted"


class RequestCounts:
    """Requests to the API."""

    def __init__(self) -> None:
        self.requests = Counter[tuple[str, str, str]]()
        """By method, route and class of status; ``aborted``: the client went away before the answer."""
        self.times: dict[tuple[str, str], Durations] = {}
        """By method and route."""
        self.refusals = Counter[str]()
        """By the code of the error."""

    def completed(self, request: web.Request, status: int, seconds: float) -> None:
        """A request was answered; ``status`` is 0 if its client went away before."""
        resource = request.match_info.route.resource
        route = _UNMATCHED if resource is None else (request.match_info.route.method, resource.canonical)
        self.requests[*route, _status_class(status)] += 1
        times = self.times.get(route)
        if times is None:
            times = self.times[route] = Durations(REQUEST_BOUNDS_S)
        times.add(seconds)


class TrafficCounts:
    """Requests to sandboxes: a :class:`~cloister.proxy.app.TrafficMeter`."""

    def __init__(self) -> None:
        self.requests = Counter[tuple[str, str]]()
        """By the kind of port, and the class of the status."""
        self.first_answers = Durations(REQUEST_BOUNDS_S)

    def completed(self, port: int, status: int) -> None:
        """See TrafficMeter."""
        self.requests[_PORTS.get(port, "program"), _status_class(status)] += 1

    def answered(self, seconds: float) -> None:
        """See TrafficMeter."""
        self.first_answers.add(seconds)


@dataclass(frozen=True, kw_only=True)
class Meters:
    """The api process's own numbers."""

    started_at: float
    """When it started (epoch seconds)."""
    descriptors: Callable[[], tuple[int | None, int | None]]
    """Its open descriptors, and the most that it may open. Blocks."""
    requests: RequestCounts = field(default_factory=RequestCounts)
    traffic: TrafficCounts = field(default_factory=TrafficCounts)
