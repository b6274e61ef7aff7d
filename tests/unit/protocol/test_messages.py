"""Both codecs of our messages, against the protobuf runtime and the generated messages of the official SDK."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import random
from typing import Any

import pytest
from e2b.envd.process import process_pb

from cloister.protocol import process
from cloister.protocol.message import FieldSpec, Kind, MessageError, schema_of, wire, wire_list, wire_map
from cloister.protocol.message_binary import from_binary, to_binary
from cloister.protocol.message_json import from_json, to_json

PAIRS: list[tuple[type, Any]] = [
    (process.StartRequest, process_pb.StartRequest),
    (process.EventResponse, process_pb.StartResponse),
    (process.EventResponse, process_pb.ConnectResponse),
    (process.ListResponse, process_pb.ListResponse),
    (process.ConnectRequest, process_pb.ConnectRequest),
    (process.UpdateRequest, process_pb.UpdateRequest),
    (process.SendInputRequest, process_pb.SendInputRequest),
    (process.StreamInputRequest, process_pb.StreamInputRequest),
    (process.SendSignalRequest, process_pb.SendSignalRequest),
    (process.CloseStdinRequest, process_pb.CloseStdinRequest),
]
TEXTS = ["", "a", "é日\U0001f600", "x" * 200, 'quote " and \n', "\0"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Every:
    """Each kind of field, also those that the process service has no use for."""

    big: int = wire(1, Kind.INT64)
    unsigned: int = wire(2, Kind.UINT64)
    moment: int | None = wire(3, Kind.TIMESTAMP)
    numbers: tuple[int, ...] = wire_list(4, Kind.UINT32)
    names: dict[str, str] = wire_map(5)  # noqa: RUF009 - as in the messages themselves
    parts: tuple[bytes, ...] = wire_list(6, Kind.BYTES)
    inner: process.TerminalSize | None = wire(7, process.TerminalSize)  # noqa: RUF009 - as in the messages themselves


CHOICES: dict[Kind, Any] = {
    Kind.STRING: lambda chance: chance.choice(TEXTS),
    Kind.BYTES: lambda chance: chance.randbytes(chance.choice([0, 1, 2, 3, 300])),
    Kind.BOOL: lambda chance: chance.random() < 0.5,
    Kind.STRING_MAP: lambda chance: {chance.choice(TEXTS): chance.choice(TEXTS) for _ in range(chance.randint(0, 3))},
    Kind.SINT32: lambda chance: chance.choice([0, -1, 1, 2**31 - 1, -(2**31)]),
    Kind.UINT32: lambda chance: chance.choice([0, 1, 127, 128, 2**32 - 1]),
    Kind.UINT64: lambda _chance: 0,  # `missed_bytes`, which is not in the official messages
}


def any_value(chance: random.Random, spec: FieldSpec) -> Any:
    """A value for one field."""
    if spec.kind is Kind.MESSAGE:
        return any_message(chance, spec.type)
    return chance.choice(list(spec.type)) if spec.kind is Kind.ENUM else CHOICES[spec.kind](chance)


def any_message(chance: random.Random, kind: type) -> Any:
    """A message with some of its fields, and at most one member of a oneof."""
    values: dict[str, Any] = {}
    chosen: set[str | None] = set()
    for spec in sorted(schema_of(kind).fields, key=lambda _: chance.random()):
        if chance.random() < 0.8 and not (spec.oneof and spec.oneof in chosen):
            chosen.add(spec.oneof)
            repeated = tuple(any_value(chance, spec) for _ in range(chance.randint(0, 3))) if spec.repeated else None
            values[spec.name] = any_value(chance, spec) if repeated is None else repeated
    return kind(**values)


@pytest.mark.parametrize("seed", range(40))
def test_both_codecs_agree_with_the_official_messages(seed: int) -> None:
    """The official runtime reads our messages and we read its, with the same content, in both codecs."""
    chance = random.Random(seed)
    for ours, theirs in PAIRS:
        message = any_message(chance, ours)
        by_binary = theirs.from_binary(to_binary(message))
        by_json = theirs.from_json(to_json(message).decode())
        assert by_binary.to_binary() == by_json.to_binary()
        assert from_binary(ours, by_binary.to_binary()) == message
        assert from_json(ours, by_json.to_json().encode()) == message
        assert json.loads(to_json(message)) == json.loads(by_json.to_json())


@pytest.mark.parametrize("seed", range(300))
def test_damaged_messages_are_errors(seed: int) -> None:
    """A message with flipped, missing or random bytes gives a message or a MessageError, in both codecs."""
    chance = random.Random(seed)
    for ours, _ in PAIRS:
        message = any_message(chance, ours)
        for encode, decode in ((to_binary, from_binary), (to_json, from_json)):
            data = bytearray(encode(message) if chance.random() < 0.8 else chance.randbytes(30))
            for _ in range(chance.randint(1, 4)):
                if data:
                    data[chance.randrange(len(data))] = chance.randrange(256)
            with contextlib.suppress(MessageError):
                assert isinstance(decode(ours, bytes(data[: chance.randint(0, len(data))])), ours)


def test_every_kind_round_trips() -> None:
    """Each kind of field comes back as it was, its extremes included."""
    message = Every(
        big=-(2**63),
        unsigned=2**64 - 1,
        moment=-1,
        numbers=(0, 1, 2**32 - 1),
        names={"": "", "k": "v"},
        parts=(b"", b"\xff\0"),
        inner=process.TerminalSize(),
    )
    assert from_binary(Every, to_binary(message)) == message
    assert from_json(Every, to_json(message)) == message
    assert from_binary(Every, b"") == from_json(Every, b"{}") == Every()


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456789Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (-62135596800 * 10**9, "0001-01-01T00:00:00Z"),
    ],
)
def test_times(nanoseconds: int, text: str) -> None:
    """Times are RFC 3339 in UTC with all their digits; other offsets are read."""
    assert json.loads(to_json(Every(moment=nanoseconds)))["moment"] == text
    assert from_json(Every, json.dumps({"moment": text}).encode()).moment == nanoseconds
    shifted = json.dumps({"moment": "1970-01-01T02:00:00.5+02:00"}).encode()
    assert from_json(Every, shifted).moment == 500_000_000


def test_json_is_read_liberally() -> None:
    """Both spellings of names, numbers as strings, both base64 alphabets, nulls, unknown fields and enums by number are taken."""
    event = from_json(process.ProcessEvent, b'{"end": {"exit_code": "-1", "exited": null, "new": [1]}, "start": null}')
    assert event.end == process.EndEvent(exit_code=-1)
    assert from_json(process.ProcessInput, b'{"stdin": "_-8"}').stdin == base64.b64decode("/+8=")
    assert from_json(process.SendSignalRequest, b'{"signal": 9}').signal == process.Signal.SIGNAL_SIGKILL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "1",
        '{"process": 1}',
        '{"process": {"args": "x"}}',
        '{"process": {"envs": {"a": 1}}}',
        '{"stdin": "true"}',
        '{"pty": {"size": {"cols": -1}}}',
        '{"pty": {"size": {"cols": 4294967296}}}',
        '{"pty": {"size": {"cols": 1.5}}}',
        '{"pty": {"size": {"cols": ' + "9" * 5000 + "}}}",
        '{"process": {"cmd": "\\ud800"}}',
        "[" * 100_000,
        "\xff",
    ],
)
def test_wrong_json_is_refused(text: str) -> None:
    """Bytes that are not the expected message are a MessageError."""
    with pytest.raises(MessageError):
        from_json(process.StartRequest, text.encode("latin-1"))


def test_wrong_input_is_refused() -> None:
    """Two members of a oneof, broken base64 and unknown signals are errors."""
    with pytest.raises(MessageError, match="exclude each other"):
        from_json(process.ProcessSelector, b'{"pid": 1, "tag": "x"}')
    with pytest.raises(MessageError, match="base64"):
        from_json(process.ProcessInput, b'{"stdin": "a*b="}')
    with pytest.raises(MessageError, match="unknown value"):
        from_json(process.SendSignalRequest, b'{"signal": "SIGNAL_SIGSTOP"}')


def test_binary_rules() -> None:
    """Of a oneof the last member counts, parts of a message merge, packed and single numbers mix, unknown fields are skipped."""
    assert from_binary(process.ProcessSelector, b"\x08\x05\x12\x01x") == process.ProcessSelector(tag="x")
    assert from_binary(process.Terminal, b"\x0a\x02\x08\x05\x0a\x02\x10\x07").size == process.TerminalSize(cols=5, rows=7)
    assert from_binary(Every, b"\x20\x01\x22\x02\x02\x03").numbers == (1, 2, 3)
    assert from_binary(process.TerminalSize, b"\x08\x05\x7d\1\2\3\4\x79" + b"x" * 8 + b"\x7a\x01y").cols == 5
    for wrong in (b"\x08", b"\x0b", b"\x0a\xff\xff\xff\xff\x0f", b"\x00\x01", b"\x08" + b"\xff" * 10 + b"\x01"):
        with pytest.raises(MessageError):
            from_binary(process.TerminalSize, wrong)


def test_text_that_is_no_unicode_is_made_so() -> None:
    """A file name of any bytes can be told; what is no UTF-8 in it is replaced."""
    name = b"a\xffb".decode("utf-8", "surrogateescape")
    for data in (to_json(process.ProcessConfig(cmd=name)), to_binary(process.ProcessConfig(cmd=name))):
        assert "a" in data.decode("utf-8")
    assert "�" in json.loads(to_json(process.ProcessConfig(cmd=name)))["cmd"]
