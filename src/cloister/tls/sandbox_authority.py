"""The certificate authority of each sandbox, and the certificates that it issues for hosts whose requests get other headers.

Owns the secret file. The key follows from the secret and the sandbox's id, and the
certificate from the key, so both are the same after a restart, and no file is kept for a sandbox. A copy of a sandbox has its own id and
therefore its own authority. Invariant: the authority of one sandbox is trusted inside that sandbox only, because no other gets it.
Source: RFC 5869 (HKDF).
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding

from cloister.errors import InvalidRequestError
from cloister.tls.certificates import Validity, certify_authority, issue

__all__ = ["SandboxAuthorities", "SandboxAuthority", "authority_of", "open_secret"]

_SECRET_BYTES = 32
_SECRET_FILE = "authority.secret"  # noqa: S105 - the name of a file
_PURPOSE = b"cloister sandbox authority 1 "
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the group of P-256 (FIPS 186-4, D.1.2.3)."""
_VALIDITY = Validity(datetime(2024, 1, 1, tzinfo=UTC), datetime(2049, 12, 31, tzinfo=UTC))
"""Fixed, because the certificate must be the same each time; later dates need another encoding (RFC 5280, 4.1.2.5)."""
_LEAF_DAYS = 7
_KEPT = 1024


def open_secret(directory: Path) -> bytes:
    """The secret that all keys follow from: made on first use, then the same.

    Raises: InvalidRequestError: the file is damaged, or others may read it; OSError.
    """
    path = directory / _SECRET_FILE
    with contextlib.suppress(FileNotFoundError):
        return _read_secret(path)
    partial = directory / f".{_SECRET_FILE}.{secrets.token_hex(4)}"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was faster: its secret counts
            os.link(partial, path)
    finally:
        partial.unlink()
    return _read_secret(path)


def _read_secret(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        content = file.read(_SECRET_BYTES + 1)
        mode = os.fstat(file.fileno()).st_mode
    if len(content) != _SECRET_BYTES or mode & 0o077:
        raise InvalidRequestError(
            f"{path} is no secret of {_SECRET_BYTES} bytes that only its owner may read",
            hint="remove it: a new one is made, and sandboxes that live must get their network rules once more",
        )
    return content


@dataclass(frozen=True)
class SandboxAuthority:
    """The authority of one sandbox."""

    sandbox_id: str
    key: ec.EllipticCurvePrivateKey

    @cached_property
    def certificate(self) -> x509.Certificate:
        """The same for the same key, to the last byte."""
        return certify_authority(self.key, f"Cloister sandbox {self.sandbox_id}", _VALIDITY, 1)

    @property
    def pem(self) -> str:
        """The certificate, for the sandbox."""
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def issue(self, name: str) -> bytes:
        """A new key and a certificate for the DNS ``name`` (ASCII), as PEM."""
        return issue(self.certificate, self.key, [x509.DNSName(name)], _LEAF_DAYS)


def authority_of(secret: bytes, sandbox_id: str) -> SandboxAuthority:
    """The authority of a sandbox."""
    # 48 bytes make the bias of the remainder negligible (FIPS 186-4, B.4.1).
    derived = HKDF(hashes.SHA256(), 48, salt=None, info=_PURPOSE + sandbox_id.encode()).derive(secret)
    number = int.from_bytes(derived, "big") % (_ORDER - 1) + 1
    return SandboxAuthority(sandbox_id, ec.derive_private_key(number, ec.SECP256R1()))


class SandboxAuthorities:
    """The authorities of a server's sandboxes. Makes the secret in ``directory`` on first need. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pem = lru_cache(maxsize=_KEPT)(self._make_pem)

    @cached_property
    def secret(self) -> bytes:
        """See :func:`open_secret`. Raises: as that."""
        return open_secret(self._directory)

    def pem(self, sandbox_id: str) -> str:
        """The certificate that the programs of a sandbox shall trust. Raises: InvalidRequestError, OSError: there is no secret."""
        return self._pem(sandbox_id)

    def _make_pem(self, sandbox_id: str) -> str:
        return authority_of(self.secret, sandbox_id).pem
