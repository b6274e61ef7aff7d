"""One setting: its type, default, unit, help text, and how a value given as text is converted. The settings are in ``settings.py``."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Setting", "declare", "make_table", "plain"]


def declare(
    default: Any,
    help_text: str,
    details: str = "",
    *,
    group: str = "",
    unit: str = "",
    choices: tuple[str, ...] = (),
    may_be_zero: bool = False,
    is_secret: bool = False,
) -> Any:
    """A dataclass field that is a setting. ``group`` stands at the first setting of a group and holds for those after it."""
    metadata = {"group": group, "help": help_text, "details": details, "unit": unit, "choices": choices, "may_be_zero": may_be_zero}
    return dataclasses.field(default=default, metadata={**metadata, "is_secret": is_secret}, repr=not is_secret)


@dataclass(frozen=True)
class Setting:
    """One setting: a field of :class:`~cloister.config.settings.Settings` as the command line and the documentation need it."""

    name: str
    kind: str
    """One of ``text``, ``integer``, ``number``, ``switch``, ``path``, ``list`` (of texts)."""
    optional: bool
    default: Any
    group: str
    """Heading under which the help and the documentation list it."""
    help: str
    """One short sentence."""
    details: str
    """Further sentences, for the documentation only."""
    unit: str
    choices: tuple[str, ...]
    may_be_zero: bool
    """For quantities: whether 0 is a value."""
    is_secret: bool
    """Whether its value is never shown, logged, or in a command line of the server's processes."""

    @property
    def option(self) -> str:
        """The command line option."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "CLOISTER_" + self.name.upper()

    @property
    def metavar(self) -> str:
        """How the command line's help writes the value: its unit, choices or kind."""
        if self.choices:
            return "{" + ",".join(self.choices) + "}"
        return {"integer": "N", "number": "N", "switch": "{true,false}"}.get(self.kind, self.kind.upper()) if not self.unit else self.unit

    @property
    def shown_default(self) -> str:
        """The default in brackets, after a space; empty where none is set."""
        if self.default in (None, ()):
            return ""
        value = ",".join(self.default) if isinstance(self.default, tuple) else self.default
        return f" [{str(value).lower() if isinstance(value, bool) else value}]"

    def convert(self, value: Any) -> Any:
        """Convert ``value``, which comes from text, TOML or JSON, to the setting's type.

        Raises:
            ValueError: the value has another type, is a quantity that is not positive, or is not one of the choices.
        """
        if self.optional and (value is None or value == ""):
            return None
        converted = _CONVERTERS[self.kind](value)
        if self.kind in {"integer", "number"} and (converted < 0 or (converted == 0 and not self.may_be_zero)):
            raise ValueError("must not be negative" if self.may_be_zero else "must be positive")
        if self.choices and converted not in self.choices:
            raise ValueError(f"must be one of {', '.join(self.choices)}")
        return converted


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text that is not empty")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool | float):
        raise ValueError("must be a whole number")  # noqa: TRY004 - settings raise ValueError only
    try:
        return int(value)
    except ValueError as error:
        raise ValueError("must be a whole number") from error


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - settings raise ValueError only
    try:
        number = float(value)
    except ValueError as error:
        raise ValueError("must be a number") from error
    if not math.isfinite(number):
        raise ValueError("must be a finite number")
    return number


def _switch(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004 - settings raise ValueError only
    return value


def _path(value: Any) -> Path:
    path = Path(_text(str(value)))
    if not path.is_absolute():
        path = Path.cwd() / path
    return path


def _list(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a list of texts")
    return tuple(part.strip() for part in parts if part.strip())


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "text": _text,
    "integer": _integer,
    "number": _number,
    "switch": _switch,
    "path": _path,
    "list": _list,
}
_KINDS = {str: "text", int: "integer", float: "number", bool: "switch", Path: "path", tuple[str, ...]: "list"}


def plain(value: Any) -> Any:
    """A setting's value as JSON has it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def make_table(settings: type) -> tuple[Setting, ...]:
    """Every setting of the dataclass, in its order."""
    hints = typing.get_type_hints(settings)
    rows: list[Setting] = []
    for field in dataclasses.fields(settings):
        hint = hints[field.name]
        options = [arg for arg in typing.get_args(hint) if arg is not type(None)] if type(None) in typing.get_args(hint) else [hint]
        meta = {**field.metadata, "group": field.metadata["group"] or rows[-1].group}
        rows.append(Setting(name=field.name, kind=_KINDS[options[0]], optional=hint is not options[0], default=field.default, **meta))
    return tuple(rows)
