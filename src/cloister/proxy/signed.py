"""Finds the sandbox of a request to the agent that has no sandbox id. Pure.

With a single sandbox URL, official SDKs send ``<url>/files?path=...&signature=...``. The signature contains a sandbox's token, so the
sandbox is the one whose token reproduces the signature. That costs one hash for each running sandbox (a microsecond), for a URL of any
length. The agent checks everything again, and also whether the URL has expired.

Some releases (Python 2.10, JavaScript 2.10) send no address with a single sandbox URL, but a token, which identifies the sandbox. The
search compares the tokens of all running sandboxes, each in constant time, so that its duration says nothing about a guess.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cloister.protocol.signature import FileSignature

__all__ = ["MAX_QUERY_BYTES", "SIGNED_PATH", "SignedRequest", "find_holder", "find_signer", "shown_token", "signed_request"]

SIGNED_PATH = "/files"
MAX_QUERY_BYTES = 16_384
"""A path has at most 4,096 bytes, and an escaped byte takes three characters."""
_OPERATIONS = {"GET": "read", "HEAD": "read", "POST": "write"}
_AGENT_PATH = re.compile(r"/(?:files|files/compose|health|metrics|envs|process\.Process/\w+|filesystem\.Filesystem/\w+)\Z")
_PREFLIGHT = "OPTIONS"
_TOKEN_HEADER = "X-Access-Token"  # noqa: S105 - its name
_EXPIRATION = re.compile(r"[0-9]{1,20}\Z")


@dataclass(frozen=True)
class SignedRequest:
    """The signed values, as the URL has them."""

    path: str
    operation: str
    user: str
    expiration: str | None
    signature: str


def signed_request(method: str, url_path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> SignedRequest | None:
    """The signed request, or None if it is not one. A browser's preflight counts as the request that it announces."""
    if url_path != SIGNED_PATH or "signature" not in query:
        return None
    if method == _PREFLIGHT:
        method = headers.get("Access-Control-Request-Method", "")
    operation = _OPERATIONS.get(method)
    if operation is None:
        return None
    return SignedRequest(query.get("path", ""), operation, query.get("username", ""), query.get("signature_expiration"), query["signature"])


def find_signer(request: SignedRequest, tokens: Iterable[tuple[str, str]]) -> str | None:
    """The id of the sandbox whose token made the signature; ``tokens`` are ``(id, token)`` pairs."""
    if request.expiration is not None and not _EXPIRATION.match(request.expiration):
        return None  # it follows the token in the hash, so a long one would cost a hash for each sandbox
    given = request.signature.encode(errors="surrogateescape")
    signature = FileSignature(request.path, request.operation, request.user, request.expiration)
    for sandbox_id, token in tokens:
        if hmac.compare_digest(given, signature.by(token).encode()):
            return sandbox_id
    return None


def shown_token(path: str, headers: Mapping[str, str]) -> str:
    """The token in a request's header; empty without one, or if the path is not one of the agent's."""
    return headers.get(_TOKEN_HEADER, "") if _AGENT_PATH.match(path) else ""


def find_holder(token: str, tokens: Iterable[tuple[str, str]]) -> str | None:
    """The id of the sandbox that has ``token``. Compares all ``(id, token)`` pairs, so that the time is constant."""
    given, holder = token.encode(errors="surrogateescape"), None
    for sandbox_id, known in tokens:
        if hmac.compare_digest(given, known.encode()):
            holder = sandbox_id
    return holder
