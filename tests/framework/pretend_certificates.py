"""Certificates of the pretend internet: a CA, and one certificate for all its names."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["write_certificates"]


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: str, key: ec.EllipticCurvePrivateKey, ca_key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name("Pretend Internet CA")).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(days=1))
    builder = builder.not_valid_after(now + dt.timedelta(days=30))
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def write_certificates(ca_file: Path, server_file: Path, names: Sequence[str], addresses: Sequence[str]) -> None:
    """A fresh CA, and a chain and key for ``names`` and ``addresses``, strict enough for every language's TLS library."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _builder("Pretend Internet CA", ca_key, ca_key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    ca_certificate = ca.add_extension(_usage(is_ca=True), critical=True).sign(ca_key, hashes.SHA256())
    alternatives = [*(x509.DNSName(name) for name in names), *(x509.IPAddress(ip_address(one)) for one in addresses)]
    server = _builder(names[0], key, ca_key).add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    server = server.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True).add_extension(
        _usage(is_ca=False), critical=True
    )
    server = server.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    certificate = server.sign(ca_key, hashes.SHA256())
    ca_pem = ca_certificate.public_bytes(serialization.Encoding.PEM)
    ca_file.write_bytes(ca_pem)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    fd = os.open(server_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(certificate.public_bytes(serialization.Encoding.PEM) + ca_pem + private)
