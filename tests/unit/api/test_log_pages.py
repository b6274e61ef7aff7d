"""Which log entries a client gets, and in which form."""

from __future__ import annotations

import json

import pytest

from cloister.api.logs import render_line, select
from cloister.model.log import LogEntry

ENTRIES = [
    LogEntry(
        at_ms=number,
        level=("debug", "info", "warn", "error")[number % 4],
        logger="agent",
        event="process.started",
        fields={"pid": str(number)},
    )
    for number in range(20)
]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("size", [1, 3, 20])
def test_pages_neither_overlap_nor_leave_gaps(backward: bool, size: int) -> None:
    """Following the cursor gives every entry once, in order."""
    cursor, found = None, []
    while page := select(ENTRIES, cursor=cursor, backward=backward, level="debug", search="")[:size]:
        found += page
        cursor = page[-1].at_ms + (not backward)
    assert found == (ENTRIES[::-1] if backward else ENTRIES)


def test_level_is_the_least_severe_one() -> None:
    """Less severe entries are left out."""
    levels = {entry.level for entry in select(ENTRIES, cursor=None, backward=False, level="warn", search="")}
    assert levels == {"warn", "error"}


def test_search_is_in_the_message() -> None:
    """The search is for a part of the message, fields included, with case."""
    assert [entry.at_ms for entry in select(ENTRIES, cursor=None, backward=False, level="debug", search="pid=1")] == [1, *range(10, 20)]
    assert select(ENTRIES, cursor=None, backward=False, level="debug", search="PID") == []


def test_no_field_takes_the_place_of_a_fixed_name() -> None:
    """A sandbox that names a field like one of ours does not change what the line says of level and logger."""
    fields = {"level": "info", "logger": "node", "event": "x.y", "agent_id": "ab", "sequence": "1"}
    line = json.loads(render_line(LogEntry(at_ms=1, level="error", logger="agent", event="a.b", fields=fields)))
    assert line == {"level": "error", "logger": "agent", "event": "a.b"}
