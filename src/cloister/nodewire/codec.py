"""Typed values to JSON and back, by the declarations of dataclasses.

A *strict* reader is for what a less trusted process sends. It refuses unknown and missing fields and wrong types, and it checks
the bounds of each field (:mod:`cloister.model.bounds`), which see the JSON value. A text, number or list without a bound is an
error of the declaration: making the reader raises TypeError, so a request with such a field cannot be declared. A *plain* reader
is for what the supervisor sends: it builds the objects and skips unknown fields.

Sockets are values too. Their JSON is null; the descriptors travel beside the message in the order in which the fields are declared.
No I/O.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from cloister.errors import InvalidRequestError
from cloister.model.bounds import Bound
from cloister.model.secret import Secret

__all__ = ["Read", "count_sockets", "dump_object", "reader", "sockets_of"]

Read = Callable[[Any, str, Iterator[socket.socket]], Any]
"""Reads a JSON value; the text names it in messages. Sockets are taken from the iterator. Raises: InvalidRequestError."""
_SCALARS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
}
_UNBOUNDED = (int, float, str, Secret)
"""Scalars that need a bound when an untrusted process sends them."""
_MAX_SHOWN = 64
"""Characters that a message repeats of an unknown field's name."""


@cache
def reader(kind: Any, *, strict: bool) -> Read:
    """How to read a value of the type ``kind``.

    Raises:
        TypeError: values of this type are not sent, or a strict value has no bound.
    """
    bounds: tuple[Bound, ...] = ()
    if get_origin(kind) is Annotated:
        kind, *found = get_args(kind)
        bounds = tuple(found) if strict else ()
    origin, args = get_origin(kind), get_args(kind)
    if strict and not bounds and (kind in _UNBOUNDED or origin in (tuple, Sequence, dict)):
        raise TypeError(f"a value of the type {kind} needs a bound")
    if origin in (Union, UnionType) and len(args) == 2 and NoneType in args:
        return _optional(reader(next(one for one in args if one is not NoneType), strict=strict))
    if origin in (tuple, Sequence):
        return _list(reader(args[0], strict=strict), bounds)
    if origin is dict and args[0] is str:
        return _dict(_scalar(args[1], bounds=()) if strict and args[1] is not Any else None, bounds)
    return _plain(kind, bounds, strict=strict)


def _plain(kind: Any, bounds: tuple[Bound, ...], *, strict: bool) -> Read:
    """The reader of a type without parameters."""
    if kind in _SCALARS or kind is Secret:
        return _scalar(kind, bounds)
    if kind is NoneType:
        return lambda _value, _where, _sockets: None
    if kind is socket.socket and not strict:
        return lambda _value, _where, sockets: next(sockets)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(kind, bounds, strict=strict)
    raise TypeError(f"{kind} cannot be sent")


def _scalar(kind: Any, bounds: tuple[Bound, ...]) -> Read:
    kinds, said = _SCALARS[str if kind is Secret else kind]

    def read(value: Any, where: str, _sockets: Iterator[socket.socket]) -> Any:
        if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):  # Python's True is an int
            raise InvalidRequestError(f"{where} is not {said}")
        for bound in bounds:
            bound(value, where)
        return Secret(str(value)) if kind is Secret else value

    return read


def _optional(inner: Read) -> Read:
    return lambda value, where, sockets: None if value is None else inner(value, where, sockets)


def _list(inner: Read, bounds: tuple[Bound, ...]) -> Read:
    def read(value: Any, where: str, sockets: Iterator[socket.socket]) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise InvalidRequestError(f"{where} is not a list")
        for bound in bounds:  # before the items: a list that is too long costs no time
            bound(value, where)
        return tuple(inner(one, f"{where}[{index}]", sockets) for index, one in enumerate(value))

    return read


def _dict(inner: Read | None, bounds: tuple[Bound, ...]) -> Read:
    def read(value: Any, where: str, sockets: Iterator[socket.socket]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise InvalidRequestError(f"{where} is not an object")
        if inner is not None:
            for one in value.values():
                inner(one, f"a value of {where}", sockets)
        for bound in bounds:
            bound(value, where)
        return value

    return read


def _enum(kind: type[Enum]) -> Read:
    members = {member.value: member for member in kind}

    def read(value: Any, where: str, _sockets: Iterator[socket.socket]) -> Enum:
        member = members.get(value) if isinstance(value, str) else None
        if member is None:
            raise InvalidRequestError(f"{where} is not one of {', '.join(members)}")
        return member

    return read


def _dataclass(kind: type, bounds: tuple[Bound, ...], *, strict: bool) -> Read:
    hints = get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    inner = {field.name: reader(hints[field.name], strict=strict) for field in fields}
    required = [field.name for field in fields if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING]
    check = getattr(kind, "check", None) if strict else None

    def read(value: Any, where: str, sockets: Iterator[socket.socket]) -> Any:
        if not isinstance(value, dict):
            raise InvalidRequestError(f"{where} is not an object")
        for bound in bounds:
            bound(value, where)
        if strict and (unknown := value.keys() - inner.keys()):
            raise InvalidRequestError(f"{where}: unknown field {min(unknown)[:_MAX_SHOWN]!r}")
        if missing := [name for name in required if name not in value]:
            raise InvalidRequestError(f"{where}.{missing[0]} is missing")
        found = kind(**{name: inner[name](value[name], f"{where}.{name}", sockets) for name in inner if name in value})
        if check is not None:
            check(found, where)
        return found

    return read


def dump_object(value: object) -> Any:
    """JSON-ready data of what :func:`json.dumps` cannot write itself: its argument ``default``."""
    if isinstance(value, Secret):
        return value.revealed
    if dataclasses.is_dataclass(value):
        return vars(value)
    if isinstance(value, socket.socket):
        return None
    raise TypeError(f"{type(value)} cannot be sent")


def sockets_of(value: object) -> list[socket.socket]:
    """The sockets in an answer, in the order of :func:`count_sockets`."""
    found = vars(value).values() if dataclasses.is_dataclass(value) else (value,)
    return [one for one in found if isinstance(one, socket.socket)]


def count_sockets(kind: Any) -> int:
    """How many sockets come with an answer of the type ``kind``: one that is a socket, or a dataclass with fields that are."""
    if not dataclasses.is_dataclass(kind):
        return int(kind is socket.socket)
    return sum(hint is socket.socket for hint in get_type_hints(kind).values())
