"""The key that signs the tokens of volumes, and the tokens: each opens the content of one volume, for a day (RFC 7519, HS256).

Owns the file (mode 0600), 32 random bytes. Without it the next start makes another one, and clients ask for new tokens.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import jwt

from cloister.errors import AuthenticationError, UnusableStateError

__all__ = ["VolumeTokens"]

_ALGORITHM, _AUDIENCE = "HS256", "cloister volume content"
_KEY_BYTES = 32
_LIFETIME_S = 86_400
_REMEDY = "remove the file: the next start makes a new key, and clients get new tokens"


class VolumeTokens:
    """Makes and checks tokens with the key in the file at ``path``. Times are epoch seconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = b""

    def open(self) -> None:
        """Read the key, or make it. Blocks. Raises: UnusableStateError: the file is damaged; OSError."""
        try:
            self._key = self._path.read_bytes()
        except FileNotFoundError:
            self._key = secrets.token_bytes(_KEY_BYTES)
            partial = self._path.with_suffix(".tmp")
            partial.unlink(missing_ok=True)
            with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(self._key)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(self._path)
        if len(self._key) != _KEY_BYTES:
            raise UnusableStateError(f"{self._path} is damaged", hint=_REMEDY)

    def make(self, volume_id: str, now: float) -> str:
        """A token for a volume."""
        claims = {"aud": _AUDIENCE, "sub": volume_id, "iat": int(now), "exp": int(now) + _LIFETIME_S}
        return jwt.encode(claims, self._key, _ALGORITHM)

    def check(self, token: str | None, volume_id: str) -> None:
        """Raises: AuthenticationError: there is no token, it is another volume's, or it has expired."""
        if not token:
            raise AuthenticationError(
                "the volume's token is missing", hint="send Authorization: Bearer, with the token of GET /volumes/{id}"
            )
        try:
            jwt.decode(
                token, self._key, algorithms=[_ALGORITHM], audience=_AUDIENCE, subject=volume_id, options={"require": ["exp", "sub"]}
            )
        except jwt.ExpiredSignatureError as error:
            raise AuthenticationError(
                "the volume's token has expired", hint="get another one: Volume.connect, GET /volumes/{id}"
            ) from error
        except jwt.InvalidTokenError as error:
            raise AuthenticationError("the volume's token is not valid") from error
