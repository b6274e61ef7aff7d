"""Messages of the envd-compatible API: frozen dataclasses whose fields declare their place on the wire. No I/O.

:func:`wire` (or :func:`wire_map`, :func:`wire_list`) makes a field. Its declaration drives both codecs, proto3 JSON (``message_json.py``)
and binary protobuf (``message_binary.py``), so they cannot differ. Optional values (messages, members of a oneof, ``optional`` scalars) are
None if absent; all others have proto3's zero value. Unknown fields are skipped.

We chose our own codec over a protobuf library, since the agent must be small and start fast. The subset in use (no floats, fixed-width
numbers, groups, extensions or ``Any``) needs only these three files.
Source: protobuf.dev/programming-guides/{encoding,json}.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from dataclasses import dataclass
from typing import Any

__all__ = ["RANGES", "FieldSpec", "Kind", "MessageError", "Schema", "drop_other_members", "schema_of", "wire", "wire_list", "wire_map"]


class MessageError(ValueError):
    """The bytes are not a message of the wanted type."""


class Kind(enum.Enum):
    """The types of fields. TIMESTAMP is nanoseconds since 1970 in Python."""

    STRING = enum.auto()
    BYTES = enum.auto()
    BOOL = enum.auto()
    UINT32 = enum.auto()
    SINT32 = enum.auto()
    INT64 = enum.auto()
    UINT64 = enum.auto()
    ENUM = enum.auto()
    MESSAGE = enum.auto()
    STRING_MAP = enum.auto()
    TIMESTAMP = enum.auto()


_ZERO: dict[Kind, Any] = {Kind.STRING: "", Kind.BYTES: b"", Kind.BOOL: False}
RANGES = {
    Kind.UINT32: (0, 2**32 - 1),
    Kind.SINT32: (-(2**31), 2**31 - 1),
    Kind.INT64: (-(2**63), 2**63 - 1),
    Kind.UINT64: (0, 2**64 - 1),
    Kind.ENUM: (-(2**31), 2**31 - 1),
}


@dataclass(frozen=True)
class FieldSpec:
    """One field: its Python name, its number and type on the wire, and whether None is one of its values."""

    name: str
    number: int
    kind: Kind
    type: Any = None
    repeated: bool = False
    optional: bool = False
    oneof: str | None = None

    @functools.cached_property
    def json_name(self) -> str:
        """The lowerCamelCase name."""
        first, *rest = self.name.split("_")
        return first + "".join(part.capitalize() for part in rest)

    @functools.cached_property
    def zero(self) -> Any:
        """The value of a (single) field that is not on the wire."""
        return None if self.optional else _ZERO.get(self.kind, 0)


@dataclass(frozen=True)
class Schema:
    """The fields of a message type: by number, by JSON name, and in order."""

    fields: tuple[FieldSpec, ...]
    by_number: dict[int, FieldSpec]
    by_name: dict[str, FieldSpec]


def wire(number: int, kind: Kind | type, *, optional: bool = False, oneof: str | None = None) -> Any:
    """A single field. ``kind`` is a :class:`Kind`, another message class, or an ``IntEnum``."""
    known, type_ = _kind_of(kind)
    absent = optional or oneof is not None or known in (Kind.MESSAGE, Kind.TIMESTAMP)
    spec = FieldSpec("", number, known, type_, optional=absent, oneof=oneof)
    return dataclasses.field(default=spec.zero, metadata={"wire": spec})


def wire_list(number: int, kind: Kind | type) -> Any:
    """A repeated field: a tuple."""
    known, type_ = _kind_of(kind)
    return dataclasses.field(default=(), metadata={"wire": FieldSpec("", number, known, type_, repeated=True)})


def wire_map(number: int) -> Any:
    """A map of strings to strings: a dict."""
    return dataclasses.field(default_factory=dict, metadata={"wire": FieldSpec("", number, Kind.STRING_MAP)})


def schema_of(message: type[Any]) -> Schema:
    """The schema of a message class."""
    schema = _SCHEMAS.get(message)
    return schema if schema is not None else _SCHEMAS.setdefault(message, _read_schema(message))


_SCHEMAS: dict[type[Any], Schema] = {}


def _read_schema(message: type[Any]) -> Schema:
    found = tuple(dataclasses.replace(one.metadata["wire"], name=one.name) for one in dataclasses.fields(message))
    names = {name: spec for spec in found for name in (spec.json_name, spec.name)}
    return Schema(found, {spec.number: spec for spec in found}, names)


def drop_other_members(values: dict[str, Any], spec: FieldSpec, schema: Schema) -> None:
    """The last member of a oneof on the wire counts: clear the others."""
    for other in schema.fields:
        if other.oneof == spec.oneof and other is not spec:
            values.pop(other.name, None)


def _kind_of(kind: Kind | type) -> tuple[Kind, Any]:
    if isinstance(kind, Kind):
        return kind, None
    return (Kind.ENUM if issubclass(kind, enum.IntEnum) else Kind.MESSAGE), kind
