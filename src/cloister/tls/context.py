"""TLS contexts: of the listener, whose certificate can be replaced while connections exist, and of the egress process.

Owns the TLS settings. Invariants: this module never writes a private key to a file with a name; a client always verifies.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence

__all__ = ["ReplaceableContext", "make_client_context", "make_context"]


def make_context(pem: bytes, protocols: Sequence[str] = ("http/1.1",)) -> ssl.SSLContext:
    """A server's context with the key and chain in ``pem``, which agrees to one of ``protocols`` (ALPN).

    Raises: ssl.SSLError (an OSError) or ValueError if they are invalid.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    descriptor = os.memfd_create("cloister-tls", os.MFD_CLOEXEC)  # the ssl module reads files only
    try:
        os.write(descriptor, pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")  # refuse a key with a password instead of prompting for it
    finally:
        os.close(descriptor)
    return context


def make_client_context(certificates: str, protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """A client's context that offers ``protocols`` (ALPN) and trusts ``certificates`` (PEM) alone; it verifies certificate and name.

    Raises: ssl.SSLError (an OSError) or ValueError: these are no certificates.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.load_verify_locations(cadata=certificates)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


class ReplaceableContext:
    """The context of a listener. Each handshake uses the newest certificate."""

    def __init__(self, pem: bytes) -> None:
        self.listening = make_context(pem)
        """Context for the listener."""
        self._current = self.listening
        self.listening.sni_callback = self._choose

    def replace(self, pem: bytes) -> None:
        """Use ``pem`` for new connections; existing ones keep theirs. Raises: as :func:`make_context`."""
        self._current = make_context(pem)

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> int | None:
        # OpenSSL calls this in every handshake, with or without a name. Loading a second certificate into one context would not
        # replace the first: OpenSSL keeps one for each type of key and offers the one that the client prefers.
        del name, context
        connection.context = self._current
        return None
