"""Tokens by which a node joins a cluster, and the marks that both sides put on their messages by it. Pure but for randomness.

The secret of a token never crosses the network: each side shows that it has it, by a mark (HMAC) on what it says. So a node may join over
a connection without TLS. Nothing that is said is secret: requests of certificates and certificates.

Invariants: a token is good for :data:`MOST_S` at most; the server keeps no tokens, because the secret follows from its key. A token for a
machine that has not joined, and one for a node to join again, have different secrets: the first cannot take a node's place.
Source: RFC 2104.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

from cloister.errors import AuthenticationError, InvalidRequestError

__all__ = ["MOST_S", "JoinToken", "check_mark", "make_token", "mark", "token_of"]

MOST_S = 86_400
_FORM = re.compile(r"cloister-join\.([0-9a-f]{16})\.([0-9]{1,12})\.([0-9a-f]{64})\Z")


@dataclass(frozen=True)
class JoinToken:
    """A token, good until ``expires_at`` (epoch seconds)."""

    token_id: str
    expires_at: int
    secret: bytes

    @property
    def revealed(self) -> str:
        """As an operator carries it to the node."""
        return f"cloister-join.{self.token_id}.{self.expires_at}.{self.secret.hex()}"

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """The inverse of :attr:`revealed`. Raises: InvalidRequestError."""
        match = _FORM.match(text.strip())
        if match is None:
            raise InvalidRequestError("this is no token of `cloister cluster token`")
        return cls(match[1], int(match[2]), bytes.fromhex(match[3]))


def make_token(key: bytes, lifetime_s: int, now: float, node_id: str = "") -> JoinToken:
    """A new token by the cluster's key for joining; ``node_id`` as for :func:`token_of`."""
    return token_of(key, secrets.token_hex(8), int(now) + min(lifetime_s, MOST_S), node_id)


def token_of(key: bytes, token_id: str, expires_at: int, node_id: str = "") -> JoinToken:
    """The token of these public parts: for a new machine, or for the node ``node_id`` to join again."""
    words = f"cloister join {token_id} {expires_at} {node_id}".encode(errors="replace")  # a stranger's words may be no Unicode
    return JoinToken(token_id, expires_at, hmac.digest(key, words, hashlib.sha256))


def mark(token: JoinToken, side: str, said: dict[str, Any]) -> str:
    """The mark of ``side`` on what it says."""
    words = json.dumps([side, said], sort_keys=True, separators=(",", ":")).encode()
    return hmac.digest(token.secret, words, hashlib.sha256).hex()


def check_mark(token: JoinToken, side: str, said: dict[str, Any], given: object) -> None:
    """Raises: AuthenticationError: the other side does not have the token."""
    if not isinstance(given, str) or not hmac.compare_digest(mark(token, side, said).encode(), given.encode(errors="replace")):
        raise AuthenticationError("the token is not one of this cluster")
