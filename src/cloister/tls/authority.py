"""A local certificate authority: made once for a data directory, asked for a server certificate at each start.

Owns ``<data>/ca``: ``ca.key`` (0600, root) and ``ca.crt``. Reads and writes nothing else. Invariant: what the authority may certify is
limited by name constraints to the server's own names and addresses, so that trusting it trusts it with nothing else.
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
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloister.errors import AlreadyExistsError, InvalidRequestError, NotFoundError, PermissionDeniedError

__all__ = ["LEAF_DAYS", "Authority", "ServerNames", "ca_file", "create_authority", "open_authority", "read_certificate"]

_CA_DAYS = 3_650
LEAF_DAYS = 30
_SKEW = timedelta(hours=1)
"""Certificates begin this much earlier, for clients whose clocks are behind."""
_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_HINT = "`cloister ca init --replace` makes an authority for the present settings; clients must trust it anew"


@dataclass(frozen=True)
class ServerNames:
    """By what a server is reached: its public domain without a port, and the address its TLS listener is bound to."""

    domain: str | None
    address: str

    def dns(self) -> tuple[str, ...]:
        """The names of the server's certificate."""
        names = () if self.domain is None else (f"*.{self.domain}", self.domain, f"api.{self.domain}")
        return (*names, "localhost") if "localhost" not in names else names

    def addresses(self) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]:
        """The addresses of the server's certificate; one that stands for all addresses names none."""
        found = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
        own = ipaddress.ip_address(self.address)
        return tuple(found if own.is_unspecified or own in found else [*found, own])

    def constraints(self) -> x509.NameConstraints:
        """What an authority for these names may certify."""
        domains = dict.fromkeys(name for name in (self.domain, "localhost") if name)
        networks = dict.fromkeys([*_LOOPBACK, *(ipaddress.ip_network(item) for item in self.addresses() if not item.is_loopback)])
        return x509.NameConstraints([*(x509.DNSName(name) for name in domains), *(x509.IPAddress(item) for item in networks)], None)


@dataclass(frozen=True)
class Authority:
    """An authority with its key, which is not to leave the process."""

    certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey

    def issue(self, names: ServerNames) -> bytes:
        """A new key and certificate for ``names``, with the authority's own after it: PEM.

        Raises:
            InvalidRequestError: the authority was made for other names.
        """
        self._check(names)
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = [*(x509.DNSName(name) for name in names.dns()), *(x509.IPAddress(item) for item in names.addresses())]
        certificate = (
            _builder(_name(names.dns()[0]), self.certificate.subject, LEAF_DAYS)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return _to_pem(key) + certificate.public_bytes(Encoding.PEM) + self.certificate.public_bytes(Encoding.PEM)

    def _check(self, names: ServerNames) -> None:
        permitted = self.certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
        missing = [item.value for item in names.constraints().permitted_subtrees or [] if item not in permitted]
        if missing:
            raise InvalidRequestError(f"the local authority was made without {', '.join(map(str, missing))}", hint=_HINT)
        if self.certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=LEAF_DAYS):
            raise InvalidRequestError("the local authority has expired, or does so within a month", hint=_HINT)


def ca_file(data_dir: Path) -> Path:
    """Where the authority's certificate is."""
    return data_dir / "ca" / "ca.crt"


def create_authority(data_dir: Path, names: ServerNames, *, replace: bool = False) -> Authority:
    """Make the authority of a data directory.

    Raises:
        AlreadyExistsError: there is one and ``replace`` is false.
        PermissionDeniedError: the directory cannot be written.
    """
    path = ca_file(data_dir)
    if path.exists() and not replace:
        raise AlreadyExistsError(f"there is an authority already: {path}", hint="--replace makes a new one, which clients must trust anew")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"Cloister local authority {secrets.token_hex(4)}")
    certificate = (
        _builder(subject, subject, _CA_DAYS)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(names.constraints(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _write(path.with_name("ca.key"), _to_pem(key), 0o600)
        _write(path, certificate.public_bytes(Encoding.PEM), 0o644)
    except PermissionError as error:
        raise PermissionDeniedError(f"{path.parent} cannot be written", hint="run this as root") from error
    return Authority(certificate, key)


def open_authority(data_dir: Path) -> Authority:
    """The authority of a data directory.

    Raises:
        NotFoundError: there is none.
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
    """The authority's certificate, which everybody may read. Raises: NotFoundError, InvalidRequestError."""
    path = ca_file(data_dir)
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no local authority: {path} does not exist", hint="`cloister ca init` makes one") from error
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{path} holds no usable certificate", hint=_HINT) from error


def _builder(subject: x509.Name, issuer: x509.Name, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file, whole or not at all, that never was readable to more than ``mode`` allows."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    partial.rename(path)
