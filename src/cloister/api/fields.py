"""Reading JSON bodies field by field, with errors that name the field. No I/O."""

from __future__ import annotations

from typing import Any

from cloister.errors import InvalidRequestError

__all__ = ["Fields"]

_MISSING = object()
_KIND_NAMES = {str: "a string", int: "a whole number", bool: "true or false", dict: "an object", list: "a list"}


class Fields:
    """A JSON object's fields, taken one by one; what is left at the end was not understood."""

    def __init__(self, body: object, where: str = "") -> None:
        if not isinstance(body, dict):
            raise InvalidRequestError(f"{where.rstrip('.') or 'the body'} must be a JSON object")
        self._left = dict(body)
        self._where = where

    def take(self, name: str, kind: type, default: Any = _MISSING) -> Any:
        """The field's value; null is as if it were absent."""
        value = self._left.pop(name, None)
        if value is None:
            if default is _MISSING:
                raise InvalidRequestError(f"{self._where}{name} is missing")
            return default
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InvalidRequestError(f"{self._where}{name} must be {_KIND_NAMES[kind]}")
        return value

    def take_list(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty if it is absent."""
        values = self.take(name, list, [])
        if not all(isinstance(value, str) for value in values):
            raise InvalidRequestError(f"{self._where}{name} must be a list of strings")
        return tuple(values)

    def take_texts(self, name: str) -> dict[str, str]:
        """An object with strings as values; empty if it is absent."""
        values = self.take(name, dict, {})
        for key, value in values.items():
            if not isinstance(value, str):
                raise InvalidRequestError(f"{self._where}{name}.{key} must be a string")
        return dict(values)

    def refuse(self, name: str, *neutral: object) -> None:
        """Refuse the field unless it is absent, null or one of the values that ask for nothing."""
        value = self._left.pop(name, None)
        if value is not None and not any(type(value) is type(harmless) and value == harmless for harmless in neutral):
            raise InvalidRequestError(f"{self._where}{name} is not supported by this server")

    def end(self) -> None:
        """Refuse what is left."""
        if self._left:
            raise InvalidRequestError(f"unknown field: {', '.join(self._where + name for name in sorted(self._left))}")
