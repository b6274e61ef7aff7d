"""The cluster's own authority: certificates of nodes and of api processes, which know each other by nothing else.

Owns the names in these certificates and the TLS contexts on both sides. Invariants: a node's certificate serves and never calls, an api
process's calls and never serves; each side verifies the other; a node's certificate is for one node id; a node makes its own key, which
never leaves it. Source: RFC 5280, RFC 8446.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloister.errors import InvalidRequestError, UnusableStateError
from cloister.tls.certificates import certify, certify_authority, days_from_now, key_pem

__all__ = [
    "API_NAME",
    "CALLER_DAYS",
    "ClusterAuthority",
    "calling_context",
    "make_cluster_authority",
    "make_request",
    "name_of_node",
    "names_in",
    "serving_context",
]

API_NAME = "api.cluster.cloister"
"""In the certificates of api processes."""
_CA_DAYS = 3_650
CALLER_DAYS = 3_650
_NODE_DAYS = 1_095
"""A node joins again before."""


def name_of_node(node_id: str) -> str:
    """The name in the certificate of a node."""
    return f"{node_id.replace('_', '-')}.node.cloister"


@dataclass(frozen=True)
class ClusterAuthority:
    """The authority with its key, as PEM."""

    certificate: bytes
    key: bytes

    def certify_node(self, node_id: str, request: str) -> str:
        """The certificate for the key in a request (PKCS #10, PEM). Raises: InvalidRequestError: it is damaged, or not its key's."""
        try:
            asked = x509.load_pem_x509_csr(request.encode())
            is_own = asked.is_signature_valid
            public = asked.public_key()
        except (ValueError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise InvalidRequestError("the certificate request is damaged") from error
        if not is_own or not isinstance(public, ec.EllipticCurvePublicKey):
            raise InvalidRequestError("the certificate request is not signed by a key on an elliptic curve")
        return self._certify(public, name_of_node(node_id), ExtendedKeyUsageOID.SERVER_AUTH, _NODE_DAYS).decode()

    def certify_caller(self) -> bytes:
        """A new key and certificate of an api process, as PEM."""
        own = ec.generate_private_key(ec.SECP256R1())
        return key_pem(own) + self._certify(own.public_key(), API_NAME, ExtendedKeyUsageOID.CLIENT_AUTH, CALLER_DAYS)

    def _certify(self, public: ec.EllipticCurvePublicKey, name: str, usage: x509.ObjectIdentifier, days: int) -> bytes:
        try:
            authority, key = x509.load_pem_x509_certificate(self.certificate), load_pem_private_key(self.key, None)
        except (ValueError, TypeError) as error:
            raise UnusableStateError("the cluster's authority is damaged", hint="restore its files from a backup") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UnusableStateError("the cluster's authority has no key on an elliptic curve", hint="restore its files from a backup")
        return certify(authority, key, public, [x509.DNSName(name)], usage, days)


def make_cluster_authority() -> ClusterAuthority:
    """A new authority, which may certify only the names of this module."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.NameConstraints([x509.DNSName("cloister")], None)
    certificate = certify_authority(key, "Cloister cluster authority", days_from_now(_CA_DAYS), x509.random_serial_number(), names)
    return ClusterAuthority(certificate.public_bytes(Encoding.PEM), key_pem(key))


def make_request(node_id: str) -> tuple[bytes, str]:
    """A new key of a node (PEM), and its request for a certificate (PKCS #10, PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name_of_node(node_id))])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return key_pem(key), request.public_bytes(Encoding.PEM).decode()


def serving_context(own: bytes, authority: bytes) -> ssl.SSLContext:
    """Of a node: ``own`` is its key and certificate. The other side must have a certificate of the authority that may call.

    Raises: ssl.SSLError (an OSError) or ValueError: they are invalid.
    """
    return _context(ssl.PROTOCOL_TLS_SERVER, own, authority)


def calling_context(own: bytes, authority: bytes) -> ssl.SSLContext:
    """Of an api process; it names the node by ``server_hostname``. Raises: as :func:`serving_context`."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, own, authority)


def _context(side: int, own: bytes, authority: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.decode())
    descriptor = os.memfd_create("cloister-tls", os.MFD_CLOEXEC)  # the ssl module reads files only
    try:
        os.write(descriptor, own)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
    finally:
        os.close(descriptor)
    return context


def names_in(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """The DNS names of a verified certificate, as ``SSLObject.getpeercert()`` has it."""
    alternatives = (certificate or {}).get("subjectAltName", ())
    return frozenset(value for kind, value in alternatives if kind == "DNS")
