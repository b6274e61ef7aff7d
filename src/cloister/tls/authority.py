"""A local certificate authority, created once for a data directory. It issues a server certificate at each start.

Owns ``<data>/ca``: ``ca.key`` (0600, root) and ``ca.crt``; reads and writes no other file. Invariant: name constraints limit the authority
to the server's own names and addresses, so a client that trusts it trusts it for no other host.
Source: RFC 5280.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from cloister.errors import AlreadyExistsError, InvalidRequestError, NotFoundError, PermissionDeniedError
from cloister.tls.certificates import certify_authority, days_from_now, issue, key_pem

__all__ = ["LEAF_DAYS", "Authority", "ServerNames", "ca_file", "create_authority", "open_authority", "permitted_names", "read_certificate"]

_CA_DAYS = 3_650
LEAF_DAYS = 30
_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_HINT = "`cloister ca init --replace` makes an authority for the present settings; clients must trust it again"


@dataclass(frozen=True)
class ServerNames:
    """Names of a server: its public domain without a port, and the address of its TLS listener."""

    domain: str | None
    address: str

    def dns(self) -> tuple[str, ...]:
        """The names of the server's certificate."""
        names = () if self.domain is None else (f"*.{self.domain}", self.domain, f"api.{self.domain}")
        return (*names, "localhost") if "localhost" not in names else names

    def addresses(self) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]:
        """The addresses of the server's certificate. A wildcard address such as 0.0.0.0 adds none."""
        found = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
        own = ipaddress.ip_address(self.address)
        return tuple(found if own.is_unspecified or own in found else [*found, own])

    def constraints(self) -> x509.NameConstraints:
        """The name constraints of an authority for these names."""
        domains = dict.fromkeys(name for name in (self.domain, "localhost") if name)
        networks = dict.fromkeys([*_LOOPBACK, *(ipaddress.ip_network(item) for item in self.addresses() if not item.is_loopback)])
        return x509.NameConstraints([*(x509.DNSName(name) for name in domains), *(x509.IPAddress(item) for item in networks)], None)


@dataclass(frozen=True)
class Authority:
    """An authority with its key, which must not leave the process."""

    certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey

    def issue(self, names: ServerNames) -> bytes:
        """A new key and certificate for ``names``, followed by the authority's certificate, as PEM.

        Raises:
            InvalidRequestError: the authority was made for other names.
        """
        self._check(names)
        alternatives = [*(x509.DNSName(name) for name in names.dns()), *(x509.IPAddress(item) for item in names.addresses())]
        own = issue(self.certificate, self._key, alternatives, LEAF_DAYS)
        return own + self.certificate.public_bytes(Encoding.PEM)

    def _check(self, names: ServerNames) -> None:
        permitted = self.certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
        missing = [item.value for item in names.constraints().permitted_subtrees or [] if item not in permitted]
        if missing:
            raise InvalidRequestError(f"the local authority may not certify {', '.join(map(str, missing))}", hint=_HINT)
        if self.certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=LEAF_DAYS):
            raise InvalidRequestError("the local authority has expired or expires within a month", hint=_HINT)


def ca_file(data_dir: Path) -> Path:
    """Path of the authority's certificate."""
    return data_dir / "ca" / "ca.crt"


def create_authority(data_dir: Path, names: ServerNames, *, replace: bool = False) -> Authority:
    """Create the authority of a data directory.

    Raises:
        AlreadyExistsError: it exists and ``replace`` is false.
        PermissionDeniedError: the directory cannot be written.
    """
    path = ca_file(data_dir)
    if path.exists() and not replace:
        raise AlreadyExistsError(f"there is an authority already: {path}", hint="--replace makes a new one, which clients must trust again")
    key = ec.generate_private_key(ec.SECP256R1())
    common_name = f"Cloister local authority {secrets.token_hex(4)}"
    certificate = certify_authority(key, common_name, days_from_now(_CA_DAYS), x509.random_serial_number(), names.constraints())
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _write(path.with_name("ca.key"), key_pem(key), 0o600)
        _write(path, certificate.public_bytes(Encoding.PEM), 0o644)
    except PermissionError as error:
        raise PermissionDeniedError(f"{path.parent} cannot be written", hint="run this as root") from error
    return Authority(certificate, key)


def open_authority(data_dir: Path) -> Authority:
    """The authority of a data directory.

    Raises:
        NotFoundError: it does not exist.
        PermissionDeniedError: the caller may not read its key.
        InvalidRequestError: its files are damaged or do not belong together.
    """
    certificate = read_certificate(data_dir)
    path = ca_file(data_dir).with_name("ca.key")
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except PermissionError as error:
        raise PermissionDeniedError(f"{path} is not readable", hint="run this as root") from error
    except (OSError, ValueError, TypeError) as error:
        raise InvalidRequestError(f"{path} holds no usable key", hint=_HINT) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise InvalidRequestError(f"{path} is not the key of {ca_file(data_dir)}", hint=_HINT)
    return Authority(certificate, key)


def read_certificate(data_dir: Path) -> x509.Certificate:
    """The authority's certificate, which every user may read. Raises: NotFoundError, InvalidRequestError."""
    path = ca_file(data_dir)
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no local authority: {path} does not exist", hint="`cloister ca init` makes one") from error
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{path} holds no usable certificate", hint=_HINT) from error


def permitted_names(data_dir: Path) -> str:
    """The names and addresses that the authority may certify, as one line. Raises: NotFoundError, InvalidRequestError."""
    permitted = read_certificate(data_dir).extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    return ", ".join(str(item.value) for item in permitted)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file atomically; its mode never allows more than ``mode``."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    partial.rename(path)
