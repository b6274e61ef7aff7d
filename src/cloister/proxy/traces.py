"""Spans of requests to the agent of a sandbox: a run of code, a command, files.

Only a request that has the sandbox's token is recorded. The sandbox gets the span's ``traceparent``, so that its programs can join. It can
send no spans itself: all times are those that the ingress sees.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from aiohttp import web

from cloister.protocol.agent import INTERPRETER_PORT
from cloister.proxy.address import RUN_PATH, Address
from cloister.proxy.forward import ANSWERED_AT, HEAD_AT
from cloister.telemetry.traceparent import TRACEPARENT
from cloister.telemetry.tracing import Span, Tracer

__all__ = ["TRACED", "TracedRequest", "trace_request"]

_AGENT_NAMES = {"/process.Process/Start": "command", "/files": "file transfer"}


@dataclass(frozen=True)
class TracedRequest:
    """A request that is recorded."""

    span: Span
    is_run: bool
    began: float
    """By ``time.perf_counter``, as the moments that the forwarder notes."""
    began_at: float

    def end(self, request: web.Request, status: int) -> None:
        """The request is over; ``status`` is 0 if it was interrupted."""
        now = time.perf_counter()
        head, answered = request.get(HEAD_AT), request.get(ANSWERED_AT)
        if head is not None and self.is_run:
            self.span.add_child("agent: accept the run", self.began_at, self._at(head))
            attributes = {} if answered is None else {"cloister.first_output_ms": round((answered - head) * 1000)}
            self.span.add_child("kernel: run the code", self._at(head), self._at(now), attributes)
        elif head is not None:
            self.span.add_child("agent", self.began_at, self._at(now))
        self.span.end(self._at(now), {"http.response.status_code": status}, failed=status == 0 or status >= 500)

    def _at(self, moment: float) -> float:
        return self.began_at + moment - self.began


TRACED = web.RequestKey("traced", TracedRequest)
"""Of a request that is recorded."""


def trace_request(tracer: Tracer, request: web.Request, address: Address) -> None:
    """Begin the span of a request to the agent that has the sandbox's token, as ``TRACED``, unless it is not to be recorded."""
    is_run = address.port == INTERPRETER_PORT and request.path == RUN_PATH
    name = "run_code" if is_run else _AGENT_NAMES.get(request.path, "agent request")
    began, began_at = time.perf_counter(), time.time()
    span = tracer.begin(name, request.headers.get(TRACEPARENT), began_at, {"cloister.sandbox_id": address.sandbox_id})
    if span is not None:
        request[TRACED] = TracedRequest(span, is_run, began, began_at)
