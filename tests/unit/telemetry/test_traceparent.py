"""The header ``traceparent``."""

from __future__ import annotations

import pytest

from cloister.telemetry.traceparent import TraceParent, read_traceparent

_TRACE, _SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_it_is_read_and_written() -> None:
    """Both ids survive; a later version may have more fields."""
    parent = TraceParent(int(_TRACE, 16), int(_SPAN, 16))
    assert read_traceparent(f"00-{_TRACE}-{_SPAN}-00") == parent
    assert read_traceparent(f"01-{_TRACE}-{_SPAN}-01-more") == parent
    assert read_traceparent(str(parent)) == parent


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "x" * 10_000,
        f"ff-{_TRACE}-{_SPAN}-01",
        f"00-{'0' * 32}-{_SPAN}-01",
        f"00-{_TRACE}-{'0' * 16}-01",
        f"00-{_TRACE.upper()}-{_SPAN}-01",
        f"00-{_TRACE}-{_SPAN}-01-more",
        f"00-{_TRACE}-{_SPAN}-01\n",
    ],
)
def test_other_forms_are_none(text: str | None) -> None:
    """A header of another form begins no trace and is no error."""
    assert read_traceparent(text) is None
