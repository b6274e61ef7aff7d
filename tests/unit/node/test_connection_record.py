"""The record of connections: its bounds under floods, its counters, and the form of its log entries."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from cloister.errors import IsolationError
from cloister.model.connection import ConnectionRecord
from cloister.network.refusals import Refusal, Target
from cloister.node.connection_notes import BURST, PERIOD_S, ConnectionNotes, fields_of, reason_of
from cloister.node.connections import ConnectionLog, TakeRecords
from framework.node_parts import RecordedEvents
from framework.waiting import eventually_async

ID = "a" * 20


def record(**values: Any) -> ConnectionRecord:
    """One connection, ordinary but for the given values."""
    usual = ConnectionRecord(sandbox_id=ID, at=5.0, protocol="tcp", address="198.51.100.81", port=443, verdict="allowed", rule="public")
    return dataclasses.replace(usual, **values)


def test_a_flood_becomes_a_burst_and_sums() -> None:
    """Connections beyond the allowance are in one record for each verdict and rule. No connection or byte is missing."""
    notes = ConnectionNotes(0.0)
    records = [record(sent_bytes=1, rule=("public", "denyOut 192.0.2.1/32")[n % 2]) for n in range(1000)]
    told = [one for one in records if notes.hear(one, 0.0) is not None]
    assert len(told) == BURST
    assert notes.due(PERIOD_S - 1) == []
    sums = notes.due(PERIOD_S)
    assert sorted((one.rule, one.count) for one in sums) == [("denyOut 192.0.2.1/32", 450), ("public", 450)]
    assert {(one.address, one.port, one.name) for one in sums} == {("", 0, None)}
    assert sum(one.sent_bytes for one in (*told, *sums)) == 1000
    assert notes.due(PERIOD_S * 9, last=True) == []


def test_the_allowance_comes_back() -> None:
    """One record a second after the burst; an idle sandbox is as a new one, and its notes can be dropped."""
    notes = ConnectionNotes(0.0)
    assert notes.is_idle(0.0)
    for _ in range(int(BURST)):
        assert notes.hear(record(), 0.0)
    assert not notes.is_idle(0.0)
    assert notes.hear(record(), 0.5) is None
    assert notes.hear(record(), 1.0) is not None
    assert len(notes.due(1.0, last=True)) == 1
    assert notes.is_idle(1000.0)


def test_many_rules_make_few_sums() -> None:
    """A sandbox whose client wrote a thousand entries does not get a thousand records at once."""
    notes = ConnectionNotes(0.0)
    for number in range(1000):
        notes.hear(record(rule=f"allowOut 192.0.2.{number}"), 0.0)
    sums = notes.due(0.0, last=True)
    assert len(sums) == 17
    assert sum(one.count for one in sums) == 1000 - BURST


def test_fields_hold_no_odd_characters_of_a_sandbox() -> None:
    """A name is what a program in the sandbox sent: it cannot write lines or escape sequences into the log."""
    fields = fields_of(record(name="a\n\x1b[31m.example" + "x" * 500, rule="r" * 1000))
    assert str(fields["name"]).startswith("a???31m.example")
    assert (len(str(fields["name"])), len(str(fields["rule"]))) == (253, 300)
    assert "name" not in fields_of(record())
    assert [reason_of(rule) for rule in ("allowOut a.example", "no_internet", "request_refused_421", "", "8.8.8.8")] == [
        "allowOut",
        "no_internet",
        "request_refused",
        "other",
        "other",
    ]


async def here(work: Callable[[], None]) -> None:
    """Does the work at once."""
    work()


def connection_log(events: RecordedEvents, *sources: TakeRecords) -> ConnectionLog:
    """A log of its own."""
    return ConnectionLog(events=events, in_thread=here, sources=sources, interval_s=0.01)


async def test_connections_of_the_kernel_and_of_the_egress_process_are_told_and_counted() -> None:
    """Both sources end in notes of their sandboxes; counters are by verdict and kind of rule."""
    events, faults = RecordedEvents(), [IsolationError("no answer", step="conntrack")]
    of_kernel = [record(sent_bytes=3, received_bytes=4)]
    of_process = [record(sandbox_id="b" * 20, verdict="refused", rule="denyOut 192.0.2.0/24", count=2)]

    def take() -> tuple[list[ConnectionRecord], int]:
        if faults:
            raise faults.pop()
        return ([of_kernel.pop()], 2) if of_kernel else ([], 0)

    log = connection_log(events, take, lambda: ([of_process.pop()], 7) if of_process and not of_kernel else ([], 0))
    running = asyncio.create_task(log.run())
    await eventually_async(lambda: len(events.notes) == 2)
    running.cancel()
    assert [(note.sandbox_id[0], note.level, note.event) for note in events.notes] == [
        ("a", "info", "network.connection"),
        ("b", "warn", "network.connection"),
    ]
    log.count_refusals([Refusal(1, Target("10.0.0.1", "tcp", 80, "not_public"), 5), Refusal(1, None, 6)])
    assert log.counts() == {
        "connections/allowed/public": 1,
        "sent_bytes/allowed/public": 3,
        "received_bytes/allowed/public": 4,
        "connections/refused/denyOut": 2,
        "lost//": 9,
        "refused_packets/refused/not_public": 5,
        "refused_packets/refused/other": 6,
    }


async def test_a_flood_makes_no_more_notes_than_its_allowance() -> None:
    """The counters have all connections, the log has few, and another sandbox's log has its own."""
    events = RecordedEvents()
    log = connection_log(events)
    log.hear([record(at=float(number), rule=f"r{'x' * (number % 200)}") for number in range(5000)])
    log.hear([record(sandbox_id="b" * 20)])
    assert len(events.notes) == BURST + 1
    assert events.notes[-1].sandbox_id == "b" * 20
    log.tell_sums(last=True)
    assert len(events.notes) <= BURST + 1 + 17
    assert sum(int(note.fields["count"]) for note in events.notes) == 5001
    assert sum(count for key, count in log.counts().items() if key.startswith("connections/")) == 5001
    assert len(log.counts()) <= 110
