r"""Expands variables in arguments: ``$NAME``, ``${NAME}``, ``${NAME:-word}``, ``${NAME-word}``, ``${NAME:+word}``, ``${NAME+word}``.

Pure, and the same for every image. No shell is involved, so no part of a value can run. All other text is data: quotes, backslashes,
spaces, newlines, ``$(…)`` and backquotes. ``\$`` is a dollar sign, and so is a ``$`` that begins no variable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cloister.errors import BuildError

__all__ = ["MAX_VALUE", "expand", "expand_value"]

MAX_VALUE = 100_000
"""Bytes of one value. The kernel allows 131,072 for one argument or variable of a new program (execve(2))."""

_MAX_DEPTH = 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-+]")
_SPECIAL = re.compile(r"\\?\$")
_BRACE = re.compile(r"\$\{|\}")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """``text`` with the values of ``variables``. Unset variables are empty. Raises: BuildError: the result is too long."""
    return _Expansion(variables).expand(text, 0)


def expand_value(text: str, variables: Mapping[str, str]) -> str:
    """The value of a variable that a client set to ``text``: as :func:`expand`, without a pair of quotes around all of it.

    The JavaScript SDK sends ``ENV A="$B"`` of a Dockerfile with its quotes, and the official service passes values to a shell. Text in
    single quotes is not expanded. Raises: BuildError: the result is too long.
    """
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" and text[0] not in text[1:-1]:
        return text[1:-1] if text[0] == "'" else expand(text[1:-1], variables)
    return expand(text, variables)


class _Expansion:
    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def expand(self, text: str, depth: int) -> str:
        if depth > _MAX_DEPTH:
            raise BuildError("variables are nested too deeply")
        closings = _closings(text)
        parts: list[str] = []
        size = at = 0
        while at < len(text):
            part, at = self._next(text, at, depth, closings)
            parts.append(part)
            size += len(part.encode("utf-8", "replace"))
            if size > MAX_VALUE:
                raise BuildError(f"a value is longer than {MAX_VALUE} bytes when its variables are put in")
        return "".join(parts)

    def _next(self, text: str, at: int, depth: int, closings: Mapping[int, int]) -> tuple[str, int]:
        """The expansion of the next piece of text from ``at`` on, and the end of that piece."""
        if text.startswith("\\$", at):
            return "$", at + 2
        if text[at] != "$":
            found = _SPECIAL.search(text, at)
            end = found.start() if found else len(text)
            return text[at:end], end
        if name := _NAME.match(text, at + 1):
            return self._variables.get(name[0], ""), name.end()
        if text.startswith("{", at + 1):
            return self._braced(text, at, depth, closings.get(at))
        return "$", at + 1

    def _braced(self, text: str, at: int, depth: int, end: int | None) -> tuple[str, int]:
        name = _NAME.match(text, at + 2)
        if name is None or end is None:
            return "${", at + 2
        value = self._variables.get(name[0])
        operator = _OPERATOR.match(text, name.end())
        if operator is None:
            return (value or "", end + 1) if name.end() == end else ("${", at + 2)
        word = text[operator.end() : end]
        is_there = value is not None and (value != "" or not operator[0].startswith(":"))
        if operator[0].endswith("-"):
            return (value or "" if is_there else self.expand(word, depth + 1)), end + 1
        return (self.expand(word, depth + 1) if is_there else ""), end + 1


def _closings(text: str) -> dict[int, int]:
    """Position of each ``${`` to that of its ``}``; unclosed ones are left out. One pass, because the text is a client's."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for one in _BRACE.finditer(text):
        if one[0] != "}":
            opened.append(one.start())
        elif opened:
            found[opened.pop()] = one.start()
    return found
