"""Ids and secrets that clients see: how they are made and what a valid one looks like."""

from __future__ import annotations

import re
import secrets
import uuid

__all__ = ["is_build_id", "is_sandbox_id", "new_access_token", "new_api_key", "new_build_id", "new_sandbox_id", "new_template_id"]

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_BUILD_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_SANDBOX_ID = re.compile(r"[a-z0-9]{20}\Z")


def new_sandbox_id() -> str:
    """20 characters of ``[a-z0-9]`` (103 bits), as the SDKs and host names need them."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(20))


def is_sandbox_id(text: str) -> bool:
    """Whether ``text`` has the form of a sandbox id."""
    return _SANDBOX_ID.match(text) is not None


def new_api_key() -> str:
    """An API key in the official form: ``e2b_`` and 40 hex digits."""
    return "e2b_" + secrets.token_hex(20)


def new_access_token() -> str:
    """A sandbox's envd or traffic access token: 64 hex digits."""
    return secrets.token_hex(32)


def new_build_id() -> str:
    """A build id; the SDKs parse it as a UUID."""
    return str(uuid.uuid4())


def is_build_id(text: str) -> bool:
    """Whether ``text`` has the form of a build id, in lower case."""
    return _BUILD_ID.match(text) is not None


def new_template_id() -> str:
    """A template's id, of the same form as a sandbox's: it is a name that clients use too."""
    return new_sandbox_id()
