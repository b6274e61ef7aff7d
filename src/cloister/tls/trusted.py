"""Certificates that sandboxes trust: the host's bundle, certificates added on the host, and an extra file.

Reads PEM; writes PEM and a Java trust store (PKCS #12). It checks only that each item is a certificate, because the host decides on trust.
"""

from __future__ import annotations

import re
import ssl
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore

from cloister.errors import InvalidRequestError

__all__ = ["Trusted", "fingerprint", "parse_pem", "read_trusted", "to_java_truststore", "to_pem"]

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Trusted:
    """``all`` certificates to trust; ``local`` are those of them that no public bundle has."""

    all: tuple[x509.Certificate, ...]
    local: tuple[x509.Certificate, ...]


def parse_pem(data: bytes) -> list[x509.Certificate]:
    """The certificates in ``data``, in order. Invalid blocks are skipped, as TLS libraries do."""
    found = []
    for block in _BLOCK.findall(data):
        try:
            with warnings.catch_warnings():  # old roots have serial numbers that current rules forbid
                warnings.simplefilter("ignore")
                found.append(x509.load_pem_x509_certificate(block))
        except ValueError:
            continue
    return found


def read_trusted(host_root: Path, bundle_variable: str | None, extra_ca_file: Path | None) -> Trusted:
    """The host's trusted certificates and those of ``extra_ca_file``.

    Raises:
        InvalidRequestError: the extra file cannot be read or holds no certificate.
    """
    bundle = parse_pem(_host_bundle(host_root, bundle_variable))
    public = {fingerprint(item) for item in _read_directory(host_root / "usr/share/ca-certificates")}
    added = _read_directory(host_root / "usr/local/share/ca-certificates")
    local = added + [item for item in bundle if public and fingerprint(item) not in public]
    if extra_ca_file is not None:
        local += _read_extra(extra_ca_file)
    return Trusted(_distinct([*bundle, *local]), _distinct(local))


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def to_pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """As the content of a bundle file."""
    return b"".join(item.public_bytes(Encoding.PEM) for item in certificates)


def to_java_truststore(certificates: Iterable[x509.Certificate]) -> bytes:
    """As a PKCS #12 trust store for a JDK's ``cacerts``, without a password, because the JDK passes none."""
    entries = [PKCS12Certificate(item, fingerprint(item)[:32].encode()) for item in certificates]
    return serialize_java_truststore(entries, NoEncryption())


def _host_bundle(host_root: Path, variable: str | None) -> bytes:
    default = ssl.get_default_verify_paths().cafile
    candidates = [host_root / "etc/ssl/certs/ca-certificates.crt", host_root / "etc/pki/tls/certs/ca-bundle.crt"]
    if variable:
        candidates.insert(0, Path(variable))
    if default and host_root == Path("/"):
        candidates.append(Path(default))
    for path in candidates:
        if path.is_file():
            return path.read_bytes()
    return b""


def _read_directory(directory: Path) -> list[x509.Certificate]:
    return [item for path in sorted(directory.rglob("*.crt")) for item in parse_pem(path.read_bytes())]


def _read_extra(path: Path) -> list[x509.Certificate]:
    try:
        found = parse_pem(path.read_bytes())
    except OSError as error:
        raise InvalidRequestError(f"the extra CA file {path} cannot be read: {error.strerror}") from error
    if not found:
        raise InvalidRequestError(f"the extra CA file {path} holds no certificate", hint="it must be in PEM form")
    return found


def _distinct(certificates: Iterable[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    return tuple({fingerprint(item): item for item in certificates}.values())
