"""Signed file URLs that carry no sandbox id: whose they are. Pure.

With a single sandbox URL, official SDKs make ``<url>/files?path=…&signature=…``; the signature holds a sandbox's token, so the sandbox is
the one whose token reproduces it. That costs a hash for each running sandbox (about a microsecond). Whether the URL has expired is
for the agent to say, which checks all of it again.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cloister.protocol.signature import file_signature

__all__ = ["SignedRequest", "find_signer", "signed_request"]

_PATH = "/files"
_OPERATIONS = {"GET": "read", "HEAD": "read", "POST": "write"}
_PREFLIGHT = "OPTIONS"
_MAX_CHARACTERS = 16_384
"""Of what can be signed: nobody may have each running sandbox cost a hash of much more than a path."""


@dataclass(frozen=True)
class SignedRequest:
    """What was signed, as it stands in the URL."""

    path: str
    operation: str
    user: str
    expiration: str | None
    signature: str


def signed_request(method: str, url_path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> SignedRequest | None:
    """The signed request that this is, or None. A browser's preflight counts as what it asks for."""
    if url_path != _PATH or "signature" not in query:
        return None
    if method == _PREFLIGHT:
        method = headers.get("Access-Control-Request-Method", "")
    operation = _OPERATIONS.get(method)
    if operation is None or sum(map(len, query.values())) > _MAX_CHARACTERS:
        return None
    return SignedRequest(query.get("path", ""), operation, query.get("username", ""), query.get("signature_expiration"), query["signature"])


def find_signer(request: SignedRequest, tokens: Iterable[tuple[str, str]]) -> str | None:
    """The id of the sandbox whose token made the signature, of ``(id, token)`` pairs."""
    given = request.signature.encode(errors="surrogateescape")
    for sandbox_id, token in tokens:
        wanted = file_signature(request.path, request.operation, request.user, token, request.expiration)
        if hmac.compare_digest(given, wanted.encode()):
            return sandbox_id
    return None
