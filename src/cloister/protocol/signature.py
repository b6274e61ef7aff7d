"""The signature of a file URL, which the agent checks and by which the ingress finds the sandbox. Pure.

Source: the official SDKs' ``get_signature``.
"""

from __future__ import annotations

import base64
import hashlib

__all__ = ["file_signature"]


def file_signature(path: str, operation: str, user: str, token: str, expiration: str | None = None) -> str:
    """The signature over the values as they stand in the URL. ``operation`` is ``read`` or ``write``; ``user`` is empty when not given."""
    parts = [path, operation, user, token]
    if expiration is not None:
        parts.append(expiration)
    digest = hashlib.sha256(":".join(parts).encode("utf-8", "surrogateescape")).digest()
    return "v1_" + base64.b64encode(digest).rstrip(b"=").decode("ascii")
