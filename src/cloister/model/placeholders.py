"""Placeholders in the headers of network rules: texts that the api process puts in when a request leaves a sandbox. Pure.

::

    ${e2b.secrets.NAME}            the present value of the team's secret NAME; spaces around it and its case do not count
    ${e2b.identity.tokens.NAME}    an identity token of the sandbox, by the exact name that its creation gave it

Every other ``${...}`` is plain text. The form is the published one, which the SDKs write.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from cloister.errors import InvalidRequestError
from cloister.model.stored_secret import is_secret_name

__all__ = ["Placeholder", "PlaceholderKind", "parse_placeholders", "secrets_in"]

MALFORMED = "Network transform header contains a malformed E2B placeholder."
"""The published words."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class PlaceholderKind(StrEnum):
    """What a placeholder stands for."""

    SECRET = "secrets"  # noqa: S105 - a word of the placeholder
    TOKEN = "identity.tokens"  # noqa: S105 - as above


_BEGIN = re.compile(r"\$\{e2b\.(secrets|identity\.tokens)\.")


@dataclass(frozen=True)
class Placeholder:
    """One placeholder of a text."""

    kind: PlaceholderKind
    name: str
    """Of a secret: in lower case."""
    source: str
    """As it stands in the text."""


def parse_placeholders(text: str) -> tuple[str | Placeholder, ...]:
    """The parts of ``text`` in order: plain texts and placeholders.

    Raises: InvalidRequestError: a placeholder is not ended, has no possible name, or is within another.
    """
    parts: list[str | Placeholder] = []
    at = 0
    while match := _BEGIN.search(text, at):
        end = text.find("}", match.end())
        if end < 0:
            raise InvalidRequestError(MALFORMED)
        parts += [text[at : match.start()]] if match.start() > at else []
        kind = PlaceholderKind(match[1])
        parts.append(Placeholder(kind, _checked_name(kind, text[match.end() : end]), text[match.start() : end + 1]))
        at = end + 1
    return (*parts, text[at:]) if at < len(text) else tuple(parts)


def secrets_in(text: str) -> frozenset[str]:
    """The names of the secrets in a text. Raises: as :func:`parse_placeholders`."""
    found = (part for part in parse_placeholders(text) if isinstance(part, Placeholder))
    return frozenset(part.name for part in found if part.kind is PlaceholderKind.SECRET)


def _checked_name(kind: PlaceholderKind, name: str) -> str:
    if kind is PlaceholderKind.TOKEN:
        if not name or "{" in name or _CONTROL.search(name):
            raise InvalidRequestError(MALFORMED)
        return name
    name = name.strip().lower()
    if not is_secret_name(name):
        raise InvalidRequestError(MALFORMED)
    return name
