"""The notes of refused connections in a sandbox's log: when, how often, and how many at most."""

from __future__ import annotations

from cloister.network.refusals import Refusal, Target
from cloister.node.refusals import LISTED, PERIOD_S, RefusalNotes

METADATA = Target("169.254.169.254", "tcp", 80, "not_public")


def heard(notes: RefusalNotes, target: Target | None, packets: int = 1) -> None:
    """The packets were refused."""
    notes.hear(Refusal(1, target, packets))


def test_target_is_told_at_once_and_then_once_a_period() -> None:
    """The first note comes with the first packet; the next ones are added up until the period is over."""
    notes = RefusalNotes()
    heard(notes, METADATA, 2)
    fields = {"destination": "169.254.169.254", "protocol": "tcp", "port": 80, "reason": "not_public", "count": 2}
    assert notes.due(100) == [("network.refused", fields)]
    for second in range(5, int(PERIOD_S), 5):
        heard(notes, METADATA)
        assert notes.due(100 + second) == []
    assert notes.due(100 + PERIOD_S) == [("network.refused", {**fields, "count": 11})]
    assert notes.due(100 + 2 * PERIOD_S) == []


def test_protocol_without_ports_has_no_port() -> None:
    """A ping's note has no field for it."""
    notes = RefusalNotes()
    heard(notes, Target("10.0.0.1", "icmp", 0, "not_public"))
    assert notes.due(0) == [("network.refused", {"destination": "10.0.0.1", "protocol": "icmp", "reason": "not_public", "count": 1})]


def test_scan_is_a_bounded_number_of_notes() -> None:
    """Of a million targets an hour few are listed; the packets of the others are in one number, none is lost."""
    notes = RefusalNotes()
    told: list[tuple[str, dict[str, int | str]]] = []
    for now in range(0, 3600, 5):
        for number in range(now * 20, now * 20 + 100):
            heard(notes, METADATA._replace(destination=str(number)))
        heard(notes, None, 1000)
        assert len(notes._targets) <= LISTED
        told += notes.due(now)
    told += notes.due(3600, last=True)
    assert len(told) <= (LISTED + 1) * (3600 / PERIOD_S + 1)
    assert {event for event, _ in told} == {"network.refused", "network.refused_others"}
    assert sum(int(fields["count"]) for _, fields in told) == 720 * 1100


def test_silent_target_makes_room() -> None:
    """A target that nothing was sent to for a period is forgotten, so that another is listed."""
    notes = RefusalNotes()
    for number in range(LISTED):
        heard(notes, METADATA._replace(port=number + 1))
    assert len(notes.due(0)) == LISTED
    heard(notes, METADATA)
    assert notes.due(1) == [("network.refused_others", {"count": 1})]
    notes.due(PERIOD_S)
    heard(notes, METADATA)
    assert [fields["port"] for _, fields in notes.due(PERIOD_S + 1)] == [80]


def test_the_end_tells_what_is_untold() -> None:
    """The last time nothing waits for its period."""
    notes = RefusalNotes()
    heard(notes, METADATA)
    notes.due(0)
    heard(notes, METADATA, 3)
    heard(notes, None, 4)
    assert [fields["count"] for _, fields in notes.due(1, last=True)] == [3, 4]
