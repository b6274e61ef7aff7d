"""Kernel events to wire events: MIME bundles become the fields that official SDKs know. Pure; no input makes it fail."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from cloister.agent.interpreter.kernel import Cost, Display, Failure, KernelEvent, Output
from cloister.protocol import execution

__all__ = ["encode_events", "result_fields"]

_STRUCTURED = {"json", "data", "chart"}


def encode_events(events: list[KernelEvent]) -> bytes:
    """The lines of a batch of events, with ``end_of_execution`` if it holds Finished."""
    now_ns = time.time_ns()
    return b"".join(execution.encode_event(wire) for event in events for wire in _wire(event, now_ns))


def result_fields(data: Mapping[str, Any], extra: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields by wire name, extra) of a MIME bundle. A value of the wrong shape for its field goes to extra."""
    fields: dict[str, Any] = {}
    rest = dict(extra)
    for mime, value in data.items():
        name = execution.RESULT_FIELDS.get(mime)
        if value is None:
            continue
        if name is None or (name in ("data", "chart") and not isinstance(value, dict)):
            rest[mime] = value
        else:
            fields[name] = value if name in _STRUCTURED else _text(value)
    if "text" in fields:
        fields["text"] = _unquoted(fields["text"])
    return fields, rest


def _wire(event: KernelEvent, now_ns: int) -> list[dict[str, Any]]:
    if isinstance(event, Output):
        return [execution.output_event(event.stream, event.text, now_ns)]
    if isinstance(event, Display):
        fields, extra = result_fields(event.data, event.extra)
        return [execution.result_event(fields, extra, main=event.main)] if fields or extra else []
    if isinstance(event, Failure):
        return [execution.error_event(event.name, event.value, event.traceback)]
    end = execution.end_event(_cost(event.cost))  # Finished
    return [end] if event.count is None else [execution.number_event(event.count), end]


def _cost(cost: Cost) -> dict[str, int]:
    values = {"wall_ms": cost.wall_ms, "cpu_ms": cost.cpu_ms, "peak_mem_bytes": cost.peak_mem_bytes}
    return {name: value for name, value in values.items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)  # Jupyter allows a list of lines
    return json.dumps(value)


def _unquoted(text: str) -> str:
    """The text without one pair of surrounding quotes: the service shows a string's value, not its literal."""
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" else text
