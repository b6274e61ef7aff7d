"""Proto3 JSON for the messages of ``message.py``: lowerCamelCase names, base64 bytes, 64-bit numbers as strings, no zero values."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from cloister.protocol.message import RANGES, FieldSpec, Kind, MessageError, schema_of

__all__ = ["from_json", "to_json"]

_Message = TypeVar("_Message")
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
_SECOND_NS = 1_000_000_000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def to_json(message: object) -> bytes:
    """The message as UTF-8 JSON. U+FFFD replaces invalid Unicode, which file names may have."""
    text = json.dumps(_object(message), ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()


def from_json(message_type: type[_Message], data: bytes) -> _Message:
    """The message in ``data``.

    Raises: MessageError.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"the message is not JSON: {error}") from None
    return _message(message_type, value, "message")


def _object(message: Any) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for spec in schema_of(type(message)).fields:
        value = getattr(message, spec.name)
        if spec.repeated:
            if value:
                result[spec.json_name] = [_value(spec, one) for one in value]
        elif value is not None and (spec.optional or value):
            result[spec.json_name] = _value(spec, value)
    return result


def _value(spec: FieldSpec, value: Any) -> Any:
    match spec.kind:
        case Kind.MESSAGE:
            return _object(value)
        case Kind.BYTES:
            return base64.b64encode(value).decode("ascii")
        case Kind.INT64 | Kind.UINT64:
            return str(value)
        case Kind.ENUM:
            return spec.type(value).name if value in set(spec.type) else int(value)
        case Kind.TIMESTAMP:
            return _timestamp_text(value)
        case _:
            return value


def _timestamp_text(value_ns: int) -> str:
    seconds, rest = divmod(value_ns, _SECOND_NS)
    try:
        moment = _EPOCH + dt.timedelta(seconds=seconds)
    except OverflowError:
        moment, rest = (_EPOCH, 0) if seconds < 0 else (dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC), 0)
    fraction = f".{rest:09}" if rest else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + fraction + "Z"


def _message(message_type: type[_Message], value: Any, where: str) -> _Message:
    if not isinstance(value, dict):
        raise MessageError(f"{where} must be an object")
    schema = schema_of(message_type)
    values: dict[str, Any] = {}
    members: dict[str, str] = {}
    for name, one in value.items():
        spec = schema.by_name.get(name)
        if spec is None or one is None:
            continue
        if spec.oneof and members.setdefault(spec.oneof, spec.name) != spec.name:
            raise MessageError(f"{where} has both '{members[spec.oneof]}' and '{spec.name}', which exclude each other")
        values[spec.name] = _field(spec, one, f"{where}.{name}")
    return message_type(**values)


def _field(spec: FieldSpec, value: Any, where: str) -> Any:
    if not spec.repeated:
        return _single(spec, value, where)
    if not isinstance(value, list):
        raise MessageError(f"{where} must be a list")
    return tuple(_single(spec, one, where) for one in value)


def _single(spec: FieldSpec, value: Any, where: str) -> Any:
    if spec.kind is Kind.MESSAGE:
        return _message(spec.type, value, where)
    if spec.kind is Kind.ENUM and isinstance(value, str):
        if value not in spec.type.__members__:
            raise MessageError(f"{where} has the unknown value '{value[:80]}'")
        return spec.type[value]
    reader = _READERS.get(spec.kind)
    return reader(value, where) if reader else _number(spec, value, where)


def _bool(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise MessageError(f"{where} must be true or false")
    return value


def _string_map(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise MessageError(f"{where} must be an object")
    return {_text(name, where): _text(one, where) for name, one in value.items()}


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise MessageError(f"{where} must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MessageError(f"{where} is not valid Unicode") from None
    return value


def _bytes(value: Any, where: str) -> bytes:
    """Standard or URL-safe alphabet, padded or not."""
    if not isinstance(value, str):
        raise MessageError(f"{where} must be a base64 string")
    text = value.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MessageError(f"{where} is not base64: {error}") from None


def _number(spec: FieldSpec, value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise MessageError(f"{where} must be a whole number")
    try:
        number = int(value)
        if isinstance(value, float) and number != value:
            raise ValueError
    except (ValueError, OverflowError):
        raise MessageError(f"{where} must be a whole number") from None
    low, high = RANGES[spec.kind]
    if not low <= number <= high:
        raise MessageError(f"{where} is out of range")
    return number


def _timestamp(value: Any, where: str) -> int:
    found = _TIMESTAMP.fullmatch(value) if isinstance(value, str) else None
    try:
        if found is None:
            raise ValueError
        moment = dt.datetime.fromisoformat(found[1] + found[3].replace("Z", "+00:00"))
    except ValueError:
        raise MessageError(f"{where} must be a time such as 2006-01-02T15:04:05Z") from None
    since = moment - _EPOCH
    return (since.days * 86400 + since.seconds) * _SECOND_NS + int((found[2] or "").ljust(9, "0"))


_READERS: dict[Kind, Callable[[Any, str], Any]] = {
    Kind.STRING: _text,
    Kind.BYTES: _bytes,
    Kind.BOOL: _bool,
    Kind.STRING_MAP: _string_map,
    Kind.TIMESTAMP: _timestamp,
}
