"""Traces of requests: the interface, and the choice of whether there are any. Imports OpenTelemetry only if there are.

The api process alone makes spans, of its own work and of reports of the supervisor. A sandbox can send none. Invariants: the operator's
settings alone decide where spans go and which traces are recorded; a request adds spans only after its key or token was checked.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Attributes", "Span", "TraceSettings", "Tracer", "can_trace", "load_tracing", "open_tracer"]

Attributes = Mapping[str, str | int | bool]


@dataclass(frozen=True, kw_only=True)
class TraceSettings:
    """The operator's choices."""

    endpoint: str
    """Base URL of the collector; spans go to ``/v1/traces`` below it."""
    ratio: float
    """Part of the traces to record, 0 to 1."""
    most_per_s: int
    """Spans of requests to record each second."""
    version: str


class Span(Protocol):
    """A recorded span that has begun. Times are seconds since the epoch."""

    @property
    def traceparent(self) -> str:
        """The header that makes other spans its children."""
        ...

    def add_child(self, name: str, began_at: float, ended_at: float, attributes: Attributes | None = None) -> None:
        """Record a step of it that is over."""
        ...

    def end(self, ended_at: float, attributes: Attributes, *, failed: bool) -> None:
        """Record it. Call this once."""
        ...


class Tracer(Protocol):
    """Begins spans, and sends those that ended in a thread of its own."""

    def begin(self, name: str, traceparent: str | None, began_at: float, attributes: Attributes) -> Span | None:
        """Begin the span of a request whose client is known; ``traceparent`` is its header. None: it is not recorded."""
        ...

    def close(self) -> None:
        """Send what is left, within a few seconds. Blocks."""
        ...


def can_trace() -> bool:
    """Whether the packages of the extra ``otel`` are installed."""
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def load_tracing() -> None:
    """Import all that :func:`open_tracer` needs. A process that is about to lose the right to read its code calls this before."""
    from cloister.telemetry.otlp import load  # noqa: PLC0415 - as below

    load()


def open_tracer(settings: TraceSettings) -> Tracer:
    """A tracer. Starts a thread. Raises: ImportError: not :func:`can_trace`."""
    from cloister.telemetry.otlp import OtlpTracer  # noqa: PLC0415 - tens of megabytes that a server without traces does not load

    return OtlpTracer(settings)
