"""X.509 certificates of authorities and of servers, with keys on P-256. Pure but for the clock and randomness.

Source: RFC 5280, RFC 6979 (deterministic signatures).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Validity", "certify", "certify_authority", "days_from_now", "issue", "key_pem"]

_SKEW = timedelta(days=1)
"""Certificates become valid this much earlier, for peers with slow clocks."""
_MAX_COMMON_NAME = 64


@dataclass(frozen=True)
class Validity:
    """The time in which a certificate is valid."""

    begin: datetime
    end: datetime


def days_from_now(days: int) -> Validity:
    """Valid now, and for so many days."""
    now = datetime.now(UTC)
    return Validity(now - _SKEW, now + timedelta(days=days))


def certify_authority(
    key: ec.EllipticCurvePrivateKey, common_name: str, validity: Validity, serial: int, constraints: x509.NameConstraints | None = None
) -> x509.Certificate:
    """The certificate of an authority that signs certificates of servers only: the same for the same arguments, to the last byte."""
    subject, public = _name(common_name), key.public_key()
    builder = (
        _builder(subject, subject, validity, serial)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False).sign(
        key, hashes.SHA256(), ecdsa_deterministic=True
    )


def issue(authority: x509.Certificate, key: ec.EllipticCurvePrivateKey, alternatives: Sequence[x509.GeneralName], days: int) -> bytes:
    """A new key and a server's certificate for the names ``alternatives``, as PEM. ``key`` is the authority's."""
    own = ec.generate_private_key(ec.SECP256R1())
    return key_pem(own) + certify(authority, key, own.public_key(), alternatives, ExtendedKeyUsageOID.SERVER_AUTH, days)


def certify(
    authority: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    public: ec.EllipticCurvePublicKey,
    alternatives: Sequence[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    days: int,
) -> bytes:
    """The certificate of the key ``public`` for one use and the names ``alternatives``, as PEM. ``key`` is the authority's."""
    return (
        _builder(_name(str(alternatives[0].value)), authority.subject, days_from_now(days), x509.random_serial_number())
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM, without encryption."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _builder(subject: x509.Name, issuer: x509.Name, validity: Validity, serial: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(serial)
        .not_valid_before(validity.begin)
        .not_valid_after(validity.end)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_MAX_COMMON_NAME])])


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
