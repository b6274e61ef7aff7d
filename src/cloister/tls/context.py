"""TLS contexts of the listener, whose certificate can be replaced while connections live.

Owns the TLS settings. Invariant: a private key is never in a file that has a name.
"""

from __future__ import annotations

import os
import ssl

__all__ = ["ReplaceableContext", "make_context"]


def make_context(pem: bytes) -> ssl.SSLContext:
    """A server's context with the key and chain in ``pem``. Raises: ssl.SSLError (an OSError), ValueError: they are none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    descriptor = os.memfd_create("cloister-tls", os.MFD_CLOEXEC)  # the ssl module reads files only
    try:
        os.write(descriptor, pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")  # a key with a password is refused, not asked for
    finally:
        os.close(descriptor)
    return context


class ReplaceableContext:
    """The context of a listener: each handshake gets the newest certificate."""

    def __init__(self, pem: bytes) -> None:
        self.listening = make_context(pem)
        """Give this to the listener."""
        self._current = self.listening
        self.listening.sni_callback = self._choose

    def replace(self, pem: bytes) -> None:
        """Use ``pem`` for connections to come; those that live are not touched. Raises: as :func:`make_context`."""
        self._current = make_context(pem)

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> int | None:
        # Called in every handshake, with or without a name. Loading a second certificate into one context would not do:
        # OpenSSL keeps one for each kind of key and offers what the client prefers.
        del name, context
        connection.context = self._current
        return None
