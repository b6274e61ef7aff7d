"""Spans reach a collector by the real exporter, within the operator's bounds."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from cloister.telemetry.tracing import TraceSettings, open_tracer
from framework.otlp_receiver import OtlpReceiver, otlp_receiver

_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def settings(receiver: OtlpReceiver, **changes: Any) -> TraceSettings:
    """Settings that record all traces."""
    values: dict[str, Any] = {"endpoint": receiver.url, "ratio": 1.0, "most_per_s": 1000, "version": "9", **changes}
    return TraceSettings(**values)


def test_spans_join_the_trace_of_their_client() -> None:
    """The request's span is a child of the client's, and steps are its children; times and attributes are those given."""
    with otlp_receiver() as receiver:
        tracer = open_tracer(settings(receiver))
        span = tracer.begin("GET /x", _PARENT, 100.0, {"a": "b"})
        assert span is not None
        span.add_child("step", 100.25, 100.5, {"n": 7})
        span.end(101.0, {"http.response.status_code": 503}, failed=True)
        tracer.close()
    (root,), (step,) = receiver.named("GET /x"), receiver.named("step")
    assert (root.trace_id, root.parent_id) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert (step.trace_id, step.parent_id, step.attributes) == (root.trace_id, root.span_id, {"n": 7})
    assert span.traceparent == f"00-{root.trace_id}-{root.span_id}-01"
    assert (root.began_ns, root.ended_ns, step.began_ns) == (100_000_000_000, 101_000_000_000, 100_250_000_000)
    assert root.attributes == {"a": "b", "http.response.status_code": 503}
    assert (root.is_error, step.is_error, receiver.service) == (True, False, "cloister")


def test_spans_without_a_client_begin_traces() -> None:
    """Each has a trace of its own."""
    with otlp_receiver() as receiver:
        tracer = open_tracer(settings(receiver))
        for text in (None, "nonsense"):
            span = tracer.begin("one", text, time.time(), {})
            assert span is not None
            span.end(time.time(), {}, failed=False)
        tracer.close()
    assert [span.parent_id for span in receiver.spans] == ["", ""]
    assert len({span.trace_id for span in receiver.spans}) == 2


@pytest.mark.parametrize(("changes", "least", "most"), [({"ratio": 0.0}, 0, 0), ({"ratio": 0.25}, 150, 350), ({"most_per_s": 50}, 50, 60)])
def test_the_operator_bounds_what_is_recorded(changes: dict[str, Any], least: int, most: int) -> None:
    """A part of the traces, chosen anew by each process whatever ids clients give, and a number each second."""
    with otlp_receiver() as receiver:
        tracers = [open_tracer(settings(receiver, **changes)) for _ in range(2)]
        chosen = []
        for tracer in tracers:
            headers = [f"00-{number:032x}-{1:016x}-01" for number in range(1, 1001)]
            chosen.append([header for header in headers if tracer.begin("one", header, 0.0, {}) is not None])
            tracer.close()
    assert all(least <= len(one) <= most for one in chosen), [len(one) for one in chosen]
    if "ratio" in changes and most:
        assert chosen[0] != chosen[1]


def test_nothing_is_imported_without_an_endpoint() -> None:
    """The api process has no module of OpenTelemetry until a tracer is opened."""
    code = (
        "import sys, cloister.processes.api, cloister.processes.node; "
        "print([name for name in sys.modules if name.startswith('opentelemetry') or name == 'requests'])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"
