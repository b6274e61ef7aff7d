"""The keys that encrypt secrets in the store, and the encryption: AES-256-GCM (NIST SP 800-38D) with random nonces of 96 bits.

The keys are in a file outside the database, so that a copy of the database alone tells no secret. The first line is the key that new
values are encrypted with; the others are of former times, and read what is still encrypted with them::

    <8 hexadecimal digits> <base64 of 32 bytes>

Owns the file (mode 0600). Invariant: a value opens only for the context that it was encrypted for; so a row of the database that is moved
to another team, name or version cannot be read.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloister.errors import StoreError, UnusableStateError
from cloister.model.secret import Secret

__all__ = ["SealingKeys"]

_KEY_BYTES = 32
_NONCE_BYTES = 12
_REMEDY = "restore the file from a backup; without it the secrets of all teams are lost, and after its removal each needs a new value"


class SealingKeys:
    """The keys in the file at ``path``. Blocks; call :meth:`open` first, which makes the file if there is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: dict[str, AESGCM] = {}
        self._lines: list[str] = []

    @property
    def current_id(self) -> str:
        """The id of the key that new values are encrypted with."""
        return next(iter(self._keys))

    def has(self, key_id: str) -> bool:
        """Whether the key of that id is there."""
        return key_id in self._keys

    def open(self) -> None:
        """Read the keys. Raises: UnusableStateError: the file is damaged; OSError."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            self._write([_new_line()])
            return
        except ValueError:
            text = ""
        self._take(text.splitlines())

    def rotate(self) -> None:
        """Encrypt new values with a new key from now on. Values of former keys can still be read. Raises: OSError."""
        self._write([_new_line(), *self._lines])

    def forget_former(self) -> None:
        """Forget all keys but the current one. Raises: OSError."""
        self._write(self._lines[:1])

    def seal(self, value: Secret, context: bytes) -> tuple[str, bytes]:
        """The id of the key, and the encrypted value."""
        key_id, nonce = self.current_id, secrets.token_bytes(_NONCE_BYTES)
        return key_id, nonce + self._keys[key_id].encrypt(nonce, value.revealed.encode(), context)

    def unseal(self, key_id: str, sealed: bytes, context: bytes) -> Secret:
        """The value. Raises: StoreError: its key is not there, or it was encrypted for another context."""
        key = self._keys.get(key_id)
        if key is None:
            self.open()  # `cloister secret-key rotate` may have added it
            key = self._keys.get(key_id)
        if key is None:
            raise StoreError("a secret is encrypted with a key that is not in the key file any more", hint="give it a new value")
        try:
            return Secret(key.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context).decode())
        except (InvalidTag, ValueError) as error:
            raise StoreError("a secret cannot be decrypted: its row was changed", hint="give it a new value") from error

    def _write(self, lines: list[str]) -> None:
        partial = self._path.with_suffix(".tmp")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as file:
            owner = self._path.parent.stat()
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)  # the api process must be able to read what a command of root's wrote
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)  # a value must not be stored before its key is
        finally:
            os.close(directory)
        self._take(lines)

    def _take(self, lines: list[str]) -> None:
        keys = {}
        try:
            for line in lines:
                key_id, _, text = line.partition(" ")
                key = base64.b64decode(text, validate=True)
                if not key_id or len(key) != _KEY_BYTES:
                    raise ValueError
                keys[key_id] = AESGCM(key)
        except (ValueError, binascii.Error) as error:
            raise UnusableStateError(f"{self._path} is damaged", hint=_REMEDY) from error
        if not keys:
            raise UnusableStateError(f"{self._path} has no key", hint=_REMEDY)
        self._keys, self._lines = keys, lines


def _new_line() -> str:
    return f"{secrets.token_hex(4)} {base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}"
