"""Sources of the server's certificate, and when to read it again. Runs in the launcher, as root, because it reads private keys.

There are two sources: the operator's files, which other tools renew at any time, and the local authority, whose certificates are issued
here and never written to a file. Invariant: a source checks that certificate and key belong together.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from cloister.errors import InvalidRequestError, NotFoundError
from cloister.tls.authority import LEAF_DAYS, Authority, ServerNames, ca_file, create_authority, open_authority
from cloister.tls.context import make_context

__all__ = ["AuthoritySource", "CertificateSource", "FileSource"]

_RENEWAL_S = LEAF_DAYS * 86_400 / 3
_MAX_BYTES = 128 * 1024


class CertificateSource(Protocol):
    """Provides key and certificate chain."""

    def load(self) -> bytes:
        """The private key and the chain, server's certificate first, as PEM. Raises: CloisterError with the cause."""

    def is_stale(self) -> bool:
        """Whether :meth:`load` would return a newer version than last time."""


class FileSource:
    """A certificate chain and its key in files."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self._paths = (key_file, cert_file)
        self._seen: tuple[object, ...] = ()

    def load(self) -> bytes:
        """See :class:`CertificateSource`."""
        self._seen = self._look()
        parts = []
        for path in self._paths:
            try:
                parts.append(path.read_bytes().strip() + b"\n")
            except OSError as error:
                raise InvalidRequestError(f"the TLS file {path} cannot be read: {error.strerror}") from error
        pem = b"".join(parts)
        if len(pem) > _MAX_BYTES:
            raise InvalidRequestError(f"the TLS files {self._paths[1]} and {self._paths[0]} are larger than {_MAX_BYTES} bytes")
        try:
            make_context(pem)
        except (OSError, ValueError) as error:
            hint = "both in PEM form, the chain with the server's certificate first, the key without a password"
            raise InvalidRequestError(f"{self._paths[1]} and {self._paths[0]} do not belong together: {error}", hint=hint) from error
        return pem

    def is_stale(self) -> bool:
        """See :class:`CertificateSource`."""
        return self._look() != self._seen

    def _look(self) -> tuple[object, ...]:
        return tuple(_look_at(path) for path in self._paths)


class AuthoritySource:
    """The local authority of a data directory, which is created on first use."""

    def __init__(self, data_dir: Path, names: ServerNames) -> None:
        self._data_dir = data_dir
        self._names = names
        self._loaded_at = 0.0
        self._seen: object = None

    def load(self) -> bytes:
        """See :class:`CertificateSource`."""
        pem = self._open().issue(self._names)
        self._loaded_at, self._seen = time.time(), _look_at(ca_file(self._data_dir))
        return pem

    def is_stale(self) -> bool:
        """See :class:`CertificateSource`."""
        return time.time() - self._loaded_at > _RENEWAL_S or _look_at(ca_file(self._data_dir)) != self._seen

    def _open(self) -> Authority:
        try:
            return open_authority(self._data_dir)
        except NotFoundError:
            return create_authority(self._data_dir, self._names)


def _look_at(path: Path) -> object:
    """Values that change when the file is replaced; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
