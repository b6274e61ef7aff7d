"""The signature of a file URL, which the agent checks and by which the ingress finds the sandbox. Pure.

Source: the official SDKs' ``get_signature``.
"""

from __future__ import annotations

import base64
import hashlib

__all__ = ["FileSignature", "file_signature"]


class FileSignature:
    """The signatures of one URL by many tokens: the text before the token is hashed once.

    ``operation`` is ``read`` or ``write``; ``user`` is empty if not given; all values are as in the URL.
    """

    def __init__(self, path: str, operation: str, user: str, expiration: str | None = None) -> None:
        self._begun = hashlib.sha256(_bytes(f"{path}:{operation}:{user}:"))
        self._end = b"" if expiration is None else _bytes(f":{expiration}")

    def by(self, token: str) -> str:
        """The signature that ``token`` makes."""
        digest = self._begun.copy()
        digest.update(_bytes(token) + self._end)
        return "v1_" + base64.b64encode(digest.digest()).rstrip(b"=").decode("ascii")


def file_signature(path: str, operation: str, user: str, token: str, expiration: str | None = None) -> str:
    """The signature over the values as in the URL."""
    return FileSignature(path, operation, user, expiration).by(token)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
