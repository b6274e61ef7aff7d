"""Wire format of the code-interpreter API (port 49999): requests in, stream events out. No I/O.

The answer to an execution is newline-delimited JSON, one event a line, ``end_of_execution`` last. Lines are ASCII with escapes, since one
official client decodes each network chunk by itself, and strict JSON: no NaN, no infinity.
Source: PyPI e2b-code-interpreter 2.11.5 ``models.py``, npm @e2b/code-interpreter 2.8.0 ``messaging.ts``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cloister.errors import InvalidRequestError

__all__ = [
    "RESULT_FIELDS",
    "ContextRequest",
    "ExecuteRequest",
    "encode_event",
    "end_event",
    "error_event",
    "keepalive_event",
    "number_event",
    "output_event",
    "parse_context_request",
    "parse_envs",
    "parse_execute_request",
    "result_event",
]

RESULT_FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "application/vnd.e2b.data": "data",
    "application/vnd.e2b.chart": "chart",
}
"""MIME type to the field of a ``result`` event; other types go to ``extra``."""


@dataclass(frozen=True)
class ExecuteRequest:
    """One run of code. ``context_id`` and ``language`` are never both set."""

    code: str
    context_id: str | None = None
    language: str | None = None
    envs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ContextRequest:
    """A context to make; None means the default."""

    language: str | None = None
    cwd: str | None = None


def parse_execute_request(body: bytes) -> ExecuteRequest:
    """The body of POST /execute.

    Raises: InvalidRequestError.
    """
    data = _json_object(body)
    code = data.get("code")
    if not isinstance(code, str):
        raise InvalidRequestError("'code' must be a string")
    context_id = _optional_text(data, "context_id")
    language = _optional_text(data, "language")
    if context_id and language:
        raise InvalidRequestError("Only one of context_id or language can be provided")
    return ExecuteRequest(code, context_id, language, parse_envs(data.get("env_vars"), "env_vars"))


def parse_context_request(body: bytes) -> ContextRequest:
    """The body of POST /contexts; an empty one means the defaults.

    Raises: InvalidRequestError.
    """
    data = _json_object(body) if body.strip() else {}
    return ContextRequest(_optional_text(data, "language"), _optional_text(data, "cwd"))


def parse_envs(value: object, name: str) -> dict[str, str]:
    """The environment variables in a body; null and absent give none.

    Raises: InvalidRequestError, also for names and values that no environment can hold.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{name!r} must be an object of strings")
    for key, item in value.items():
        if not isinstance(item, str):
            raise InvalidRequestError(f"{name!r}: the value of {key!r} must be a string")
        if not key or "=" in key or "\0" in key or "\0" in item:
            raise InvalidRequestError(f"{name!r}: {key!r} is not a variable that an environment can hold")
    return dict(value)


def output_event(stream: str, text: str, timestamp_ns: int) -> dict[str, Any]:
    """``stream`` is ``stdout`` or ``stderr``; the SDK types call the timestamp nanoseconds since the epoch."""
    return {"type": stream, "text": text, "timestamp": timestamp_ns}


def result_event(fields: Mapping[str, Any], extra: Mapping[str, Any], *, main: bool) -> dict[str, Any]:
    """``fields`` by their wire names (:data:`RESULT_FIELDS`); an empty ``extra`` is omitted."""
    event = {"type": "result", **fields, "is_main_result": main}
    if extra:
        event["extra"] = dict(extra)
    return event


def error_event(name: str, value: str, traceback: str) -> dict[str, Any]:
    """The run's error."""
    return {"type": "error", "name": name, "value": value, "traceback": traceback}


def number_event(count: int) -> dict[str, Any]:
    """The context's execution counter."""
    return {"type": "number_of_executions", "execution_count": count}


def keepalive_event() -> dict[str, Any]:
    """Shows each side that the other one is alive."""
    return {"type": "keepalive"}


def end_event(cost: Mapping[str, int] | None) -> dict[str, Any]:
    """The last event. ``cost`` (wall_ms, cpu_ms, peak_mem_bytes) is an extension of ours; official clients ignore it."""
    return {"type": "end_of_execution", "cost": dict(cost)} if cost else {"type": "end_of_execution"}


def encode_event(event: Mapping[str, Any]) -> bytes:
    """One line, ASCII, strict JSON."""
    try:
        text = json.dumps(event, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(event), allow_nan=False, separators=(",", ":"))
    return text.encode("ascii") + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"The body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise InvalidRequestError("The body must be a JSON object")
    return data


def _optional_text(data: Mapping[str, Any], name: str) -> str | None:
    value = data.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequestError(f"{name!r} must be a string")
    return value or None
