"""The header ``traceparent``, by which a request joins the trace of its client. Pure.

Source: https://www.w3.org/TR/trace-context/, version 00.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["TRACEPARENT", "TraceParent", "read_traceparent"]

TRACEPARENT = "traceparent"
_FORM = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.{0,200})?", re.ASCII)


@dataclass(frozen=True)
class TraceParent:
    """A trace, and the span in it that is the parent. Neither id is zero."""

    trace_id: int
    span_id: int

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-01"


def read_traceparent(text: str | None) -> TraceParent | None:
    """The ids in the header; None if there is none, or it has another form."""
    found = _FORM.fullmatch(text or "")
    if found is None or text is None or text.startswith("ff") or (text.startswith("00") and len(text) != 55):
        return None
    parent = TraceParent(int(found[1], 16), int(found[2], 16))
    return parent if parent.trace_id and parent.span_id else None
