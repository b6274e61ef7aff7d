"""Generates and validates ids, keys and tokens."""

from __future__ import annotations

import re
import secrets
import uuid

__all__ = [
    "is_build_id",
    "is_key_id",
    "is_node_id",
    "is_sandbox_id",
    "is_secret_id",
    "is_team_id",
    "new_access_token",
    "new_admin_key",
    "new_api_key",
    "new_bearer_token",
    "new_build_id",
    "new_key_id",
    "new_metrics_key",
    "new_node_id",
    "new_sandbox_id",
    "new_secret_id",
    "new_team_id",
    "new_template_id",
]

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_BUILD_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_NODE_ID = re.compile(r"node_[0-9a-f]{16}\Z")
_TEAM_ID = re.compile(r"team_[0-9a-f]{16}\Z")
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
_SECRET_ID = re.compile(rf"sec_[0-7][{_BASE32}]{{25}}\Z")
_SANDBOX_ID = re.compile(r"[a-z0-9]{20}\Z")


def new_sandbox_id() -> str:
    """20 random characters of ``[a-z0-9]`` (103 bits); valid in host names, as the SDKs need."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(20))


def is_sandbox_id(text: str) -> bool:
    """Whether ``text`` has the form of a sandbox id."""
    return _SANDBOX_ID.match(text) is not None


def new_api_key() -> str:
    """An API key in the official form: ``e2b_`` and 40 hex digits."""
    return "e2b_" + secrets.token_hex(20)


def new_metrics_key() -> str:
    """A key for ``GET /metrics``: ``clm_`` and 40 hex digits."""
    return "clm_" + secrets.token_hex(20)


def new_admin_key() -> str:
    """A key for the routes below ``/admin``: ``cla_`` and 40 hex digits."""
    return "cla_" + secrets.token_hex(20)


def new_bearer_token() -> str:
    """A key in the official form of personal access tokens: ``sk_e2b_`` and 40 hex digits."""
    return "sk_e2b_" + secrets.token_hex(20)


def new_key_id() -> str:
    """A key's id; the published API has UUIDs."""
    return str(uuid.uuid4())


def is_key_id(text: str) -> bool:
    """Whether ``text`` has the form of a key's id."""
    return is_build_id(text)


def new_team_id() -> str:
    """A team's id: ``team_`` and 16 hex digits."""
    return "team_" + secrets.token_hex(8)


def is_team_id(text: str) -> bool:
    """Whether ``text`` has the form of a team's id."""
    return _TEAM_ID.match(text) is not None


def new_access_token() -> str:
    """A sandbox's envd or traffic access token: 64 hex digits."""
    return secrets.token_hex(32)


def new_build_id() -> str:
    """A build id; the SDKs parse it as a UUID."""
    return str(uuid.uuid4())


def is_build_id(text: str) -> bool:
    """Whether ``text`` has the form of a build id, in lower case."""
    return _BUILD_ID.match(text) is not None


def new_node_id() -> str:
    """The id of a node: ``node_`` and 16 hex digits."""
    return "node_" + secrets.token_hex(8)


def is_node_id(text: str) -> bool:
    """Whether ``text`` has the form of a node's id."""
    return _NODE_ID.match(text) is not None


def new_template_id() -> str:
    """A template's id, of the same form as a sandbox's."""
    return new_sandbox_id()


def new_secret_id(now: float) -> str:
    """The id of a secret that is made ``now`` (epoch seconds): a TypeID, which is ``sec_`` and a UUID of version 7 in base 32.

    Source: RFC 9562 section 5.7, and the specification of TypeID 0.3.
    """
    number = (int(now * 1000) & ((1 << 48) - 1)) << 80 | 7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return "sec_" + "".join(_BASE32[number >> shift & 31] for shift in range(125, -1, -5))


def is_secret_id(text: str) -> bool:
    """Whether ``text`` has the form of a secret's id."""
    return _SECRET_ID.match(text) is not None
