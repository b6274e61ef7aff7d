"""Whatever an agent says becomes a bounded entry of known form, or nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloister.agentclient.reports import read_page


def page(*events: Any, agent_id: Any = "ab12") -> Any:
    """What an agent answers."""
    return {"agent_id": agent_id, "events": list(events)}


def event(**changed: Any) -> dict[str, Any]:
    """One good event, changed."""
    return {"sequence": 0, "at": 50.0, "kind": "process.started", "fields": {"pid": 7}, **changed}


def read(data: Any) -> Any:
    """Read between the times 10 and 100."""
    return read_page(data, earliest=10.0, latest=100.0)


def test_good_event() -> None:
    """An event of the agent keeps its name, number, time and fields; its level is taken out of the fields."""
    fields = {"pid": 7, "command": "/bin/bash", "level": "warn", "wall_s": 0.25, "ok": True, "none": None}
    (report,) = read(page(event(fields=fields))).reports
    assert (report.event, report.sequence, report.at, report.level) == ("process.started", 0, 50.0, "warn")
    assert report.fields == {"pid": "7", "command": "/bin/bash", "wall_s": "0.25", "ok": "true"}


_NO_PAGES: list[Any] = [
    *(None, 1, "x", [], {}, {"events": []}, {"agent_id": "a", "events": {}}),
    *(page(agent_id=value) for value in (5, "x" * 99, "../etc")),
]
_NO_NUMBERS: tuple[Any, ...] = (-1, 1.5, "0", None, True, 2**70)
_NO_FIELDS: tuple[Any, ...] = (None, [], "x")
_NO_KINDS: tuple[Any, ...] = (None, 5, "", "x", "sandbox", "a.b\nc.d", "A.B", "x." * 50, "sandbox.ended\x1b[2J")
_NO_TIMES: tuple[Any, ...] = ("now", None, True, float("nan"), float("inf"))
_NO_EVENTS: list[Any] = [
    *(None, 3, [], "x"),
    *({"sequence": value} for value in _NO_NUMBERS),
    *({"at": value} for value in _NO_TIMES),
    *({"kind": value} for value in _NO_KINDS),
    *({"fields": value} for value in _NO_FIELDS),
]


@pytest.mark.parametrize("data", _NO_PAGES)
def test_what_is_no_page(data: Any) -> None:
    """Anything else than a page is none."""
    assert read(data) is None


@pytest.mark.parametrize("bad", _NO_EVENTS)
def test_what_is_no_event(bad: Any) -> None:
    """A malformed event is left out, the good one after it stays."""
    broken = {**event(), **bad} if isinstance(bad, dict) else bad
    (report,) = read(page(broken, event(sequence=1))).reports
    assert report.sequence == 1


def test_fields_are_bounded_and_harmless() -> None:
    """Long, strange, nested and too many fields are cut, replaced or left out; nothing can end a line or move a cursor."""
    fields: dict[str, Any] = {
        "long": "x" * 10_000,
        "strange": 'a"b\n\x1b[31m\u202e\x00{}',
        "nested": {"a": 1},
        "Bad Name": 1,
        "level": "catastrophe",
        "nan": float("nan"),
        "huge": 10**4000,
    }
    (report,) = read(page(event(fields={**fields, **{f"f{chr(97 + number)}": number for number in range(26)}}))).reports
    assert report.level == "info"
    assert len(report.fields) <= 12
    assert report.fields["long"] == "x" * 64
    assert report.fields["strange"] == "a?b???31m????"
    assert not {"nested", "Bad Name", "nan", "huge", "level"} & set(report.fields)


def test_times_lie_between_the_last_look_and_now() -> None:
    """An agent cannot put its words into another time."""
    reports = read(page(event(at=-1e9), event(sequence=1, at=1e15), event(sequence=2, at=60))).reports
    assert [report.at for report in reports] == [10.0, 100.0, 60.0]


def test_numbers_only_rise_and_pages_are_bounded() -> None:
    """Repeated and falling numbers are left out, and so is what is beyond the size of a page."""
    assert [report.sequence for report in read(page(*(event(sequence=number) for number in (3, 3, 2, 5)))).reports] == [3, 5]
    assert len(read(page(*(event(sequence=number) for number in range(5000)))).reports) == 500
    json.dumps([vars(report) for report in read(page(event())).reports])
