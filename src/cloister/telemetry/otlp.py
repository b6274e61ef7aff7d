"""Spans by the OpenTelemetry SDK, sent to one collector by OTLP over HTTP.

Owns the bounds: a sample of the traces by a secret of this process, so that clients cannot choose an id that is recorded; a number of
requests each second; a queue in memory. Spans beyond them are dropped. The SDK reads ``OTEL_EXPORTER_OTLP_HEADERS`` and the variables of
certificates from the environment.
"""

from __future__ import annotations

import secrets
import time
from hashlib import blake2b

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, set_span_in_context

from cloister.telemetry.traceparent import TraceParent, read_traceparent
from cloister.telemetry.tracing import Attributes, TraceSettings

__all__ = ["OtlpTracer", "load"]

_QUEUE = 4096
_SEND_TIMEOUT_S = 5.0
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class _Span:
    """See :class:`cloister.telemetry.tracing.Span`."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def traceparent(self) -> str:
        """See Span."""
        context = self._span.get_span_context()
        return str(TraceParent(context.trace_id, context.span_id))

    def add_child(self, name: str, began_at: float, ended_at: float, attributes: Attributes | None = None) -> None:
        """See Span."""
        context = set_span_in_context(self._span)
        self._tracer.start_span(name, context, attributes=dict(attributes or {}), start_time=_ns(began_at)).end(_ns(ended_at))

    def end(self, ended_at: float, attributes: Attributes, *, failed: bool) -> None:
        """See Span."""
        self._span.set_attributes(dict(attributes))
        if failed:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(_ns(ended_at))


class OtlpTracer:
    """See :class:`cloister.telemetry.tracing.Tracer`. Event loop only, except for :meth:`close`."""

    def __init__(self, settings: TraceSettings) -> None:
        self._settings = settings
        self._secret = secrets.token_bytes(16)
        self._left = float(settings.most_per_s)
        self._counted_at = time.monotonic()
        exporter = OTLPSpanExporter(endpoint=f"{settings.endpoint.rstrip('/')}/v1/traces", timeout=_SEND_TIMEOUT_S)
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "cloister", "service.version": settings.version}),
            sampler=ALWAYS_ON,
            span_limits=SpanLimits(max_attributes=16, max_attribute_length=128, max_events=0, max_links=0),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_QUEUE))
        self._tracer = self._provider.get_tracer("cloister")

    def begin(self, name: str, traceparent: str | None, began_at: float, attributes: Attributes) -> _Span | None:
        """See Tracer."""
        parent = read_traceparent(traceparent)
        if not self._is_sampled(secrets.randbits(128) if parent is None else parent.trace_id) or not self._has_room():
            return None
        context = Context()  # empty: no span is current here
        if parent is not None:
            context = set_span_in_context(
                NonRecordingSpan(SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=_SAMPLED))
            )
        span = self._tracer.start_span(name, context, SpanKind.SERVER, attributes=dict(attributes), start_time=_ns(began_at))
        return _Span(self._tracer, span)

    def close(self) -> None:
        """See Tracer."""
        self._provider.shutdown()

    def _is_sampled(self, trace_id: int) -> bool:
        digest = blake2b(trace_id.to_bytes(16), digest_size=8, key=self._secret).digest()
        return int.from_bytes(digest) < self._settings.ratio * 2**64

    def _has_room(self) -> bool:
        now, most = time.monotonic(), float(self._settings.most_per_s)
        self._left, self._counted_at = min(most, self._left + (now - self._counted_at) * most), now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def load() -> None:
    """Import what the exporter imports when it is made."""
    OTLPSpanExporter(endpoint="http://127.0.0.1:9/v1/traces").shutdown()  # type: ignore[no-untyped-call]  # as it declares it


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
