"""Bounds of untrusted values, declared on the fields that hold them.

A dataclass of :mod:`cloister.model` that arrives from a less trusted process annotates each field with its bound::

    end_at: Annotated[float, within(-MAX_NUMBER, MAX_NUMBER)]

A bound is a function of the value and the field's name for messages; it raises InvalidRequestError. The reader of the wire
(:mod:`cloister.nodewire.codec`) checks the type first and then calls the bound. Type checkers see the plain type.

A dataclass whose fields bound each other also has a method ``check(self, where: str) -> None``, which the reader calls last.
Values that this server made itself are not checked: it must read the journals of former versions. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Annotated, Any

from cloister.errors import InvalidRequestError
from cloister.ids import is_build_id, is_sandbox_id
from cloister.model.text import size_of_text

__all__ = [
    "MAX_NUMBER",
    "MAX_TEXT_BYTES",
    "PUBLIC_ID",
    "Bound",
    "BuildId",
    "Label",
    "PublicId",
    "Quantity",
    "SandboxId",
    "TemplateName",
    "Text",
    "Time",
    "count",
    "json_tree",
    "matching",
    "one_of",
    "positive",
    "text",
    "variables",
    "whole",
    "within",
]

Bound = Callable[[Any, str], None]
MAX_NUMBER = 1e12
"""Above every time and size that is meant; a float holds whole numbers exactly up to here."""
MAX_TEXT_BYTES = 131_072
"""The kernel refuses a longer argument of a program (execve(2), MAX_ARG_STRLEN)."""
PUBLIC_ID = "[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
_MAX_VARIABLES = 1000
_VALUE_COST_BYTES = 8
"""Memory that each value of a JSON tree counts for, beside its text."""
_MAX_DEPTH = 4
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def matching(pattern: str) -> Bound:
    """Text that ``pattern`` matches as a whole."""
    compiled = re.compile(pattern)

    def check(value: str, where: str) -> None:
        if not compiled.fullmatch(value):
            raise InvalidRequestError(f"{where} is malformed")

    return check


def one_of(words: Collection[str]) -> Bound:
    """One of these texts."""

    def check(value: str, where: str) -> None:
        if value not in words:
            raise InvalidRequestError(f"{where} is not one of {', '.join(words)}")

    return check


def text(most_bytes: int = MAX_TEXT_BYTES) -> Bound:
    """Text of at most so many bytes in UTF-8, which files and arguments of programs can hold: no NUL, no half of a surrogate pair."""

    def check(value: str, where: str) -> None:
        if size_of_text(value, where) > most_bytes:
            raise InvalidRequestError(f"{where} is longer than {most_bytes} bytes")

    return check


def label(most_bytes: int) -> Bound:
    """Text for people: as :func:`text`, and without control characters, which a terminal that shows a log would obey."""
    bounded = text(most_bytes)

    def check(value: str, where: str) -> None:
        bounded(value, where)
        if _CONTROL_CHARACTERS.search(value):
            raise InvalidRequestError(f"{where} has control characters")

    return check


def within(least: float, most: float) -> Bound:
    """A number from ``least`` to ``most``, both included; not NaN."""

    def check(value: float, where: str) -> None:
        if not least <= value <= most:  # written so that NaN fails
            raise InvalidRequestError(f"{where} is not from {least:.16g} to {most:.16g}")

    return check


def positive(value: float, where: str) -> None:
    """A bound: a number above 0, at most :data:`MAX_NUMBER`."""
    if not 0 < value <= MAX_NUMBER:
        raise InvalidRequestError(f"{where} is not a positive number")


def count(least: int, most: int) -> Bound:
    """A list of ``least`` to ``most`` items. The items have bounds of their own."""

    def check(value: list[Any], where: str) -> None:
        if not least <= len(value) <= most:
            raise InvalidRequestError(f"{where} is not a list of {least} to {most} items")

    return check


def whole(is_valid: Callable[[str], bool]) -> Bound:
    """Text for which ``is_valid`` is true."""

    def check(value: str, where: str) -> None:
        if not is_valid(value):
            raise InvalidRequestError(f"{where} is malformed")

    return check


def variables(value: dict[str, str], where: str) -> None:
    """A bound: environment variables that the kernel accepts for a program, at most 1,000 of them and 128 KiB together."""
    if len(value) > _MAX_VARIABLES:
        raise InvalidRequestError(f"{where} has more than {_MAX_VARIABLES} variables")
    size = 0
    for name, content in value.items():
        size += size_of_text(name, f"{where}: a variable's name") + size_of_text(content, f"{where}: a variable's value")
        if not name or "=" in name:
            raise InvalidRequestError(f"{where}: a variable's name is empty or has a '='")
    if size > MAX_TEXT_BYTES:
        raise InvalidRequestError(f"{where} is longer than {MAX_TEXT_BYTES} bytes")


def json_tree(most_bytes: int, depth: int = _MAX_DEPTH) -> Bound:
    """JSON that is kept and sent again: bounded in size and depth, with finite numbers and texts that a database can hold."""

    def check(tree: Any, where: str) -> None:
        size, values = 0, [(tree, 0)]
        while values:  # a stack and not a recursion: the bound on the depth must hold before Python's own
            value, at = values.pop()
            size += _VALUE_COST_BYTES
            match value:
                case None | bool():
                    pass
                case str():
                    size += size_of_text(value, where)
                case int() | float() if -MAX_NUMBER <= value <= MAX_NUMBER:
                    pass
                case list() if at < depth:
                    values += [(one, at + 1) for one in value]
                case dict() if at < depth:
                    values += [(one, at + 1) for pair in value.items() for one in pair]
                case _:
                    raise InvalidRequestError(f"{where} has a number that does not fit, or is deeper than {depth}")
            if size + _VALUE_COST_BYTES * len(values) > most_bytes:
                raise InvalidRequestError(f"{where} is longer than {most_bytes} bytes")

    return check


SandboxId = Annotated[str, whole(is_sandbox_id)]
BuildId = Annotated[str, whole(is_build_id)]
"""A UUID in lower case: it names a directory of the supervisor."""
PublicId = Annotated[str, matching(PUBLIC_ID)]
"""Id of a team or of a template."""
TemplateName = Annotated[str, text(512)]
"""A stock template's name, or the id of a build."""
Text = Annotated[str, text()]
Label = Annotated[str, label(256)]
Time = Annotated[float, within(-MAX_NUMBER, MAX_NUMBER)]
"""Seconds since the epoch, UTC."""
Quantity = Annotated[int, positive]
