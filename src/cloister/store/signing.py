"""The key pairs that sign the identity tokens of sandboxes (RS256, which every verifier of OpenID Connect knows).

Owns the file (mode 0600), a JSON document::

    {"keys": [{"pem": "…", "made_at": 1767225600.0}, …]}     the newest first

A key signs for 90 days. Its public half stays published for a day longer than it signs, so that a verifier finds the key of every token
that has not expired.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from cloister.errors import UnusableStateError

__all__ = ["ALGORITHM", "SigningKeys"]

ALGORITHM = "RS256"
_SIGNS_S = 90 * 86_400.0
_PUBLISHED_S = 86_400.0
_KEY_BITS = 2048
_REMEDY = "remove the file: the next start makes a new key, and verifiers learn it from the key set"


@dataclass(frozen=True)
class _Key:
    private: rsa.RSAPrivateKey
    made_at: float
    public: dict[str, Any]
    """As a JSON Web Key."""


class SigningKeys:
    """The keys in the file at ``path``. Blocks: a new key takes some 100 ms. Times are epoch seconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: list[_Key] = []

    def open(self) -> None:
        """Read the keys; the first one is made by :meth:`renew`. Raises: UnusableStateError: the file is damaged; OSError."""
        try:
            found = json.loads(self._path.read_bytes())
            self._keys = [_read(one) for one in found["keys"]]
        except FileNotFoundError:
            self._keys = []
        except (ValueError, KeyError, TypeError) as error:
            raise UnusableStateError(f"{self._path} is damaged", hint=_REMEDY) from error

    def is_due(self, now: float) -> bool:
        """Whether :meth:`renew` would change the keys."""
        return not self._keys or now - self._keys[0].made_at > _SIGNS_S or len(self._kept(now)) < len(self._keys)

    def renew(self, now: float) -> None:
        """Make a new key if the present one is old, and forget those whose tokens have all expired. Raises: OSError."""
        if not self.is_due(now):
            return
        keys = self._kept(now)
        if not keys or now - keys[0].made_at > _SIGNS_S:
            keys = [_key(rsa.generate_private_key(public_exponent=65_537, key_size=_KEY_BITS), now), *keys]
        self._write(keys)
        self._keys = keys

    def sign(self, claims: dict[str, Any]) -> str:
        """A token with these claims, signed by the newest key (RFC 7519)."""
        key = self._keys[0]
        return jwt.encode(claims, key.private, ALGORITHM, headers={"kid": key.public["kid"]})

    def public(self) -> list[dict[str, Any]]:
        """The public halves, as JSON Web Keys (RFC 7517)."""
        return [key.public for key in self._keys]

    def _kept(self, now: float) -> list[_Key]:
        """The newest key, and those that signed until less than a day ago: until their successor was made."""
        return [key for index, key in enumerate(self._keys) if index == 0 or now - self._keys[index - 1].made_at < _PUBLISHED_S]

    def _write(self, keys: list[_Key]) -> None:
        partial = self._path.with_suffix(".tmp")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as file:
            json.dump({"keys": [{"pem": _pem(key.private), "made_at": key.made_at} for key in keys]}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._path)


def _read(data: dict[str, Any]) -> _Key:
    private = serialization.load_pem_private_key(data["pem"].encode(), None)
    if not isinstance(private, rsa.RSAPrivateKey):
        raise TypeError("not an RSA key")
    return _key(private, float(data["made_at"]))


def _key(private: rsa.RSAPrivateKey, made_at: float) -> _Key:
    public = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    described = {name: public[name] for name in ("kty", "n", "e")}
    return _Key(private, made_at, {**described, "use": "sig", "alg": ALGORITHM, "kid": _thumbprint(described)})


def _thumbprint(public: dict[str, Any]) -> str:
    """Source: RFC 7638."""
    digest = hashlib.sha256(json.dumps(public, sort_keys=True, separators=(",", ":")).encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _pem(private: rsa.RSAPrivateKey) -> str:
    raw = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return raw.decode()
