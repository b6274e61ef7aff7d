"""The messages between supervisor and egress process: each is read as it was written, and nothing else is taken for one."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from cloister.egresswire.link import (
    MAX_RECORDS,
    Begin,
    Done,
    Forget,
    LookUps,
    Message,
    Put,
    Records,
    Serve,
    parse_message,
    parse_outcome,
    render_begin,
    render_done,
    render_forget,
    render_look_ups,
    render_put,
    render_records,
    render_serve,
)
from cloister.errors import InvalidRequestError
from cloister.model.connection import ConnectionRecord, LookUp
from cloister.model.network import EgressPolicy, EgressProxy, HeaderRule
from cloister.model.secret import Secret

_PROXY = EgressProxy(address="proxy.example:1080", username="user", password=Secret("hidden"), tls=True)
_POLICY = EgressPolicy(public=False, names=("*.example",), rules=(HeaderRule(host="a.example", headers={"a": "b"}),), proxy=_PROXY)
_RECORD = ConnectionRecord(sandbox_id="one", at=1.5, protocol="tcp", address="192.0.2.1", port=443, verdict="allowed", rule="public")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            render_begin(Begin(IPv4Address("10.0.0.1"), (IPv4Network("10.1.0.0/16"),), Secret("00"), "/x", "PEM")),
            Begin(IPv4Address("10.0.0.1"), (IPv4Network("10.1.0.0/16"),), Secret("00"), "/x", "PEM"),
        ),
        (render_put(Put(7, "10.0.0.5", "one", _POLICY)), Put(7, "10.0.0.5", "one", _POLICY)),
        (render_forget(Forget(8, "10.0.0.5")), Forget(8, "10.0.0.5")),
        (render_serve(Serve(9)), Serve(9)),
    ],
)
def test_a_message_is_read_as_it_was_written(line: bytes, message: Message) -> None:
    """Each message of the supervisor is one line, and the same after it is read."""
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert parse_message(line) == message


def test_an_outcome_is_read_as_it_was_written() -> None:
    """Acknowledgements and records are the same after they are read."""
    assert parse_outcome(render_done(7)) == Done(7)
    assert parse_outcome(render_records(Records((_RECORD,), 3))) == Records((_RECORD,), 3)
    found = LookUps((LookUp("10.0.0.5", 2.5, "a.example", ("198.51.100.1", "198.51.100.2")),))
    assert parse_outcome(render_look_ups(found)) == found


@pytest.mark.parametrize(
    "look_up",
    [
        ["10.0.0", 1.0, "a", ["1.2.3.4"]],
        ["10.0.0.5", "now", "a", ["1.2.3.4"]],
        ["10.0.0.5", 1.0, "a\n", ["1.2.3.4"]],
        ["10.0.0.5", 1.0, "a", []],
        ["10.0.0.5", 1.0, "a", ["x"]],
        ["10.0.0.5", 1.0, "a", ["1.2.3.4"] * 65],
        ["10.0.0.5", 1.0, "a"],
        7,
    ],
)
def test_a_look_up_out_of_bounds_is_refused(look_up: object) -> None:
    """As a record."""
    with pytest.raises(InvalidRequestError):
        parse_outcome(json.dumps({"look_ups": [look_up]}).encode())


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b'{"id": 1, "put": {"address": "10.0.0.5"}}', b'{"id": 1, "stop": {}}', b"\xff"])
def test_other_messages_are_refused(line: bytes) -> None:
    """A message that is malformed or unknown is an error."""
    with pytest.raises(InvalidRequestError):
        parse_message(line)


def test_a_malformed_policy_shows_no_password() -> None:
    """The error about a policy tells nothing of it."""
    data = json.loads(render_put(Put(7, "10.0.0.5", "one", _POLICY)))
    data["put"]["policy"]["unknown"] = 1
    with pytest.raises(InvalidRequestError) as caught:
        parse_message(json.dumps(data).encode())
    assert "hidden" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "maybe"},
        {"name": "a" * 301},
        {"name": "a\nb"},
        {"rule": 7},
        {"at": float("nan")},
        {"at": "now"},
        {"port": 65536},
        {"port": True},
        {"sent_bytes": -1},
        {"received_bytes": 1 << 70},
        {"count": 0},
        {"is_looked_up": True},
        {"duration_s": -1.0},
        {"more": 1},
    ],
)
def test_a_record_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    """The supervisor takes no record with other fields, or with values that no connection has."""
    line = json.dumps({"records": [{**vars(_RECORD), **change}], "lost": 0}).encode()
    with pytest.raises(InvalidRequestError):
        parse_outcome(line)


def test_too_many_records_are_refused() -> None:
    """One message has a bounded number of records."""
    for records, lost in (((_RECORD,) * (MAX_RECORDS + 1), 0), ((), -1)):
        with pytest.raises(InvalidRequestError):
            parse_outcome(render_records(Records(records, lost)))
    deep = b'{"records": ' + b"[" * 100_000 + b"]" * 100_000 + b', "lost": 0}'
    with pytest.raises(InvalidRequestError):
        parse_outcome(deep)
