"""Reads the ``iam`` of a creation: the identity tokens that a sandbox's header rules may use. Pure.

The contract is the published one.
"""

from __future__ import annotations

import re
from typing import Any

from cloister.api.fields import Fields, shown
from cloister.errors import InvalidRequestError
from cloister.model.text import size_of_text

__all__ = ["parse_identity"]

_MAX_TOKENS = 5
_MAX_NAME_BYTES = 128
_MAX_AUDIENCE_BYTES = 2048
_TOKEN_TYPE = "JWT-SVID"  # noqa: S105 - a word of the contract
_IMPOSSIBLE = re.compile(r"[{}\x00-\x1f\x7f-\x9f]")
"""Characters that a name cannot have, because a placeholder must hold it."""


def parse_identity(body: dict[str, Any]) -> dict[str, str]:
    """The audiences of the tokens by their names. Raises: InvalidRequestError."""
    iam = Fields(body, "iam.", is_strict=True)
    tokens = iam.take("tokens", dict, {})
    iam.end()
    if len(tokens) > _MAX_TOKENS:
        raise InvalidRequestError(f"iam.tokens has {len(tokens)} tokens; it may have at most {_MAX_TOKENS}")
    return {name: _parse_audience(name, token) for name, token in tokens.items()}


def _parse_audience(name: str, body: object) -> str:
    where = f"iam.tokens.{shown(name)}"
    if not name or _IMPOSSIBLE.search(name) or size_of_text(name, "iam.tokens: a name") > _MAX_NAME_BYTES:
        raise InvalidRequestError(f"iam.tokens: {shown(name)!r} is no possible name of a token")
    token = Fields(body, f"{where}.", is_strict=True)
    audience, kind = token.take_any("audience"), token.take_any("tokenType")
    token.end()
    if not isinstance(audience, str) or not audience:
        raise InvalidRequestError(f"{where}.audience: audience is required")
    if size_of_text(audience, f"{where}.audience") > _MAX_AUDIENCE_BYTES:
        raise InvalidRequestError(f"{where}.audience may have at most {_MAX_AUDIENCE_BYTES} bytes")
    if kind != _TOKEN_TYPE:
        raise InvalidRequestError(f"{where}.tokenType must be {_TOKEN_TYPE}")
    return audience
