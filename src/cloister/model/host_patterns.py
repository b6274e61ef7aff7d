"""Patterns of host names in a network policy: a name, ``*.name`` or ``*``; and the names themselves. Pure.

``example.com`` means this name alone, ``*.example.com`` every name below it at any depth, but not ``example.com`` itself, and ``*`` every
name. Letters have no case. A name is compared as it stands: without a port, and a dot at its end counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["ANY_NAME", "NamePatterns", "best_match", "clean_name", "is_pattern"]

ANY_NAME = "*"
_WILDCARD = "*."
_MAX_NAME = 253
_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")


def is_pattern(text: str) -> bool:
    """Whether ``text`` is a pattern that can mean a name: none with a port, a scheme, a dot at its end or the form of an address."""
    return text == ANY_NAME or (len(text) <= _MAX_NAME and _is_name(text.removeprefix(_WILDCARD)))


def clean_name(raw: bytes) -> str | None:
    """``raw``, which a connection or a question asks for, as a host name in lower case.

    None: it is no name, or an address. A dot at its end is not taken off.
    """
    if len(raw) > _MAX_NAME or not raw.isascii():
        return None
    name = raw.decode("ascii").lower()
    return name if _is_name(name) else None


def _is_name(text: str) -> bool:
    return bool(_NAME.match(text)) and not text.rpartition(".")[2].isdigit()


class NamePatterns:
    """A list of patterns, for a fast search."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = frozenset(pattern.lower() for pattern in patterns)

    def find(self, name: str) -> str | None:
        """The pattern, in lower case, that fits ``name`` most closely: the name itself, else the longest wildcard; None if none fits."""
        name = name.lower()
        if name in self._patterns and not name.startswith("*"):
            return name
        rest = name
        for _ in range(name.count(".")):
            rest = rest.partition(".")[2]
            if f"{_WILDCARD}{rest}" in self._patterns and len(rest) + 1 < len(name):
                return f"{_WILDCARD}{rest}"
        return ANY_NAME if name and ANY_NAME in self._patterns else None


def best_match(patterns: Iterable[str], name: str) -> str | None:
    """One search of :class:`NamePatterns`."""
    return NamePatterns(patterns).find(name)
