"""The headers that a request gets from its sandbox's rules, with secrets in place of placeholders.

Fail closed: a rule that cannot be followed refuses the request. Error texts name headers, never their values.
"""

from __future__ import annotations

import re
from typing import Protocol

from cloister.egress.intercept.requests import Headers, RefusedRequestError
from cloister.errors import CloisterError
from cloister.model.header_names import FRAMING_HEADERS, is_header_name
from cloister.model.network import HeaderRule

__all__ = ["ValueSource", "injected_headers"]

_VALUE = re.compile(rb"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?\Z")
_PLACEHOLDER = "${e2b."
_MAX_VALUE_BYTES = 16 << 10


class ValueSource(Protocol):
    """Fills placeholders: the api process, or a fake."""

    async def values(self, sandbox_id: str, host: str, texts: tuple[str, ...]) -> tuple[str, ...]:
        """``texts`` with their placeholders replaced, in order. Raises: CloisterError, with a message that has no secret."""
        ...


async def injected_headers(rule: HeaderRule | None, sandbox_id: str, host: str, source: ValueSource) -> Headers:
    """The headers for a request to ``host``. Raises: RefusedRequestError (502)."""
    if rule is None:
        return []
    for name in rule.headers:
        if not is_header_name(name) or name.lower() in FRAMING_HEADERS:
            raise RefusedRequestError(502, f"a network rule of this sandbox sets the header {name!r}, which no rule may set")
    texts = tuple(rule.headers.values())
    if any(_PLACEHOLDER in text for text in texts):
        texts = await _filled(sandbox_id, host, texts, source)
    return [(name.encode(), _checked(name, text)) for name, text in zip(rule.headers, texts, strict=True)]


async def _filled(sandbox_id: str, host: str, texts: tuple[str, ...], source: ValueSource) -> tuple[str, ...]:
    try:
        filled = await source.values(sandbox_id, host, texts)
    except CloisterError as error:
        raise RefusedRequestError(502, f"the headers of this host's network rule are not available: {error}") from error
    if len(filled) != len(texts):
        raise RefusedRequestError(502, "the headers of this host's network rule are not available: an answer does not fit")
    return filled


def _checked(name: str, text: str) -> bytes:
    value = text.encode()
    if (value and not _VALUE.match(value)) or len(value) > _MAX_VALUE_BYTES:
        raise RefusedRequestError(502, f"the value of the network rule's header {name!r} has characters or a length that no header has")
    return value
