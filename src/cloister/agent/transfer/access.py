"""Signed URLs: the signature, and whether a request to /files is allowed without the token in a header. Pure.

Contract: ``"v1_" + base64(sha256("path:operation:user:token[:expiration]"))`` without padding, over the values as in the URL. The texts of
the errors are the published ones.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping

from cloister.errors import AuthenticationError
from cloister.protocol.signature import file_signature

__all__ = ["check_access"]

_OPERATIONS = {"GET": "read", "HEAD": "read", "POST": "write"}


def check_access(method: str, query: Mapping[str, str], header: str | None, token: str | None, now_s: float | None = None) -> None:
    """Allow the request, or raise AuthenticationError. ``header`` is X-Access-Token; without a ``token`` every request is allowed."""
    if token is None:
        return
    if header is not None:
        if not hmac.compare_digest(header.encode(errors="surrogateescape"), token.encode()):
            raise AuthenticationError("access token present in header but does not match")
        return
    signature = query.get("signature")
    if signature is None:
        raise AuthenticationError("missing signature query parameter")
    expiration = query.get("signature_expiration")
    wanted = file_signature(query.get("path", ""), _OPERATIONS[method], query.get("username", ""), token, expiration)
    if not hmac.compare_digest(signature.encode(errors="surrogateescape"), wanted.encode()):
        raise AuthenticationError("invalid signature")
    if expiration is not None and not _is_ahead(expiration, time.time() if now_s is None else now_s):
        raise AuthenticationError("signature is already expired")


def _is_ahead(expiration: str, now_s: float) -> bool:
    return expiration.isascii() and expiration.isdigit() and len(expiration) < 20 and int(expiration) >= int(now_s)
