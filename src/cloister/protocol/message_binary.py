"""Binary protobuf for the messages of ``message.py``. Lengths are checked before anything is copied; groups are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from cloister.protocol.message import FieldSpec, Kind, MessageError, drop_other_members, schema_of

__all__ = ["from_binary", "to_binary"]

_Message = TypeVar("_Message")
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LENGTH_KINDS = (Kind.STRING, Kind.BYTES, Kind.MESSAGE, Kind.STRING_MAP, Kind.TIMESTAMP)
_MASK64 = 2**64 - 1
_MAX_VARINT_BYTES = 10
_SECOND_NS = 1_000_000_000


def to_binary(message: object) -> bytes:
    """The message as bytes, fields in the order of their declaration."""
    parts: list[bytes] = []
    for spec in schema_of(type(message)).fields:
        value = getattr(message, spec.name)
        if spec.kind is Kind.STRING_MAP:
            entries = (_length(1, _utf8(name)) + _length(2, _utf8(one)) for name, one in value.items())
            parts.extend(_length(spec.number, entry) for entry in entries)
        elif spec.repeated:
            parts.extend(_encode(spec, one) for one in value)
        elif value is not None and (spec.optional or value):
            parts.append(_encode(spec, value))
    return b"".join(parts)


def from_binary(message_type: type[_Message], data: bytes) -> _Message:
    """The message in ``data``.

    Raises: MessageError.
    """
    schema = schema_of(message_type)
    values: dict[str, Any] = {}
    for number, wire_type, raw in _records(data):
        spec = schema.by_number.get(number)
        if spec is None:
            continue
        if spec.oneof:
            drop_other_members(values, spec, schema)
        if spec.kind in _LENGTH_KINDS:
            if not isinstance(raw, bytes):
                raise MessageError(f"{spec.name} has the wire type {wire_type}")
            _take_bytes(values, spec, raw)
        else:
            _take_numbers(values, spec, raw, wire_type)
    for spec in schema.fields:
        value = values.get(spec.name)
        if spec.repeated and value is not None:
            values[spec.name] = tuple(value)
        elif spec.kind is Kind.MESSAGE and value is not None:
            values[spec.name] = from_binary(spec.type, b"".join(value))
        elif spec.kind is Kind.TIMESTAMP and value is not None:
            values[spec.name] = _timestamp(b"".join(value))
    return message_type(**values)


def _take_bytes(values: dict[str, Any], spec: FieldSpec, raw: bytes) -> None:
    match spec.kind:
        case Kind.STRING_MAP:
            entry: dict[int, str] = {number: _text(spec, part) for number, _type, part in _records(raw) if number in (1, 2)}
            values.setdefault(spec.name, {})[entry.get(1, "")] = entry.get(2, "")
        case _ if spec.repeated:
            one = from_binary(spec.type, raw) if spec.kind is Kind.MESSAGE else _text(spec, raw) if spec.kind is Kind.STRING else raw
            values.setdefault(spec.name, []).append(one)
        case Kind.MESSAGE | Kind.TIMESTAMP:
            values.setdefault(spec.name, []).append(raw)  # parts of one message are merged, as protobuf defines for repeated occurrences
        case Kind.STRING:
            values[spec.name] = _text(spec, raw)
        case _:
            values[spec.name] = raw


def _take_numbers(values: dict[str, Any], spec: FieldSpec, raw: int | bytes, wire_type: int) -> None:
    if isinstance(raw, int) and wire_type == _VARINT:
        numbers = [raw]
    elif isinstance(raw, bytes) and wire_type == _LENGTH and spec.repeated:
        numbers, at = [], 0
        while at < len(raw):
            number, at = _varint(raw, at)
            numbers.append(number)
    else:
        raise MessageError(f"{spec.name} has the wire type {wire_type}")
    converted = [_from_varint(spec.kind, number) for number in numbers]
    if spec.repeated:
        values.setdefault(spec.name, []).extend(converted)
    else:
        values[spec.name] = converted[0]


def _from_varint(kind: Kind, number: int) -> int | bool:
    match kind:
        case Kind.BOOL:
            return number != 0
        case Kind.UINT64:
            return number
        case Kind.UINT32:
            return number & 0xFFFFFFFF
        case Kind.SINT32:
            number &= 0xFFFFFFFF
            return (number >> 1) ^ -(number & 1)
        case Kind.ENUM:
            number &= 0xFFFFFFFF
            return number - 2**32 if number >= 2**31 else number
        case _:
            return number - 2**64 if number >= 2**63 else number


def _encode(spec: FieldSpec, value: Any) -> bytes:
    match spec.kind:
        case Kind.STRING:
            return _length(spec.number, _utf8(value))
        case Kind.BYTES:
            return _length(spec.number, value)
        case Kind.MESSAGE:
            return _length(spec.number, to_binary(value))
        case Kind.TIMESTAMP:
            seconds, nanos = divmod(value, _SECOND_NS)
            body = (_number(1, seconds) if seconds else b"") + (_number(2, nanos) if nanos else b"")
            return _length(spec.number, body)
        case Kind.SINT32:
            return _number(spec.number, (value << 1) ^ (value >> 31))
        case _:
            return _number(spec.number, int(value))


def _records(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """(field number, wire type, number or bytes) of each field in ``data``."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if not 0 < number < 2**29:
            raise MessageError(f"the message has the field number {number}")
        if wire_type == _VARINT:
            value, at = _varint(data, at)
            yield number, wire_type, value
            continue
        if wire_type == _LENGTH:
            size, at = _varint(data, at)
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
        else:
            raise MessageError(f"the message has the wire type {wire_type}")
        if size > len(data) - at:
            raise MessageError("the message is cut short")
        yield number, wire_type, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for place in range(_MAX_VARINT_BYTES):
        if at >= len(data):
            raise MessageError("the message is cut short")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number & _MASK64, at
    raise MessageError("the message has a number of more than 64 bits")


def _timestamp(raw: bytes) -> int:
    parts = {number: value for number, _type, value in _records(raw) if isinstance(value, int)}
    return _from_varint(Kind.INT64, parts.get(1, 0)) * _SECOND_NS + _from_varint(Kind.INT64, parts.get(2, 0))


def _text(spec: FieldSpec, raw: int | bytes) -> str:
    try:
        if isinstance(raw, bytes):
            return raw.decode()
    except UnicodeDecodeError:
        raise MessageError(f"{spec.name} is not valid UTF-8") from None
    raise MessageError(f"{spec.name} must be a string")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()


def _length(number: int, data: bytes) -> bytes:
    return _to_varint(number << 3 | _LENGTH) + _to_varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _to_varint(number << 3 | _VARINT) + _to_varint(value & _MASK64)


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
