"""First bytes of TLS and QUIC connections, ordinary and evasive ones, for programs that send them from a sandbox."""

from __future__ import annotations

import contextlib
import os
import ssl
import struct

from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

__all__ = ["client_hello", "quic_initial"]

_ECH = 0xFE0D


def client_hello(name: str | None, *, ech: bool = False, alpn: tuple[str, ...] = ("h2", "http/1.1")) -> bytes:
    """A TLS 1.3 ClientHello in one record (RFC 8446 section 4.1.2), with the SNI extension if there is a ``name``.

    ``ech`` adds an outer encrypted_client_hello extension (draft-ietf-tls-esni section 5) with random contents, as browsers do for grease.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    record = outgoing.read()
    return _with_extension(record, _ECH, _ech_outer()) if ech else record


def _ech_outer() -> bytes:
    sealed = os.urandom(176)
    encapsulated = os.urandom(32)
    return b"\x00" + struct.pack("!HHBH", 1, 1, 7, len(encapsulated)) + encapsulated + struct.pack("!H", len(sealed)) + sealed


def _with_extension(record: bytes, kind: int, contents: bytes) -> bytes:
    """The record of a ClientHello with one extension more: the first, as one for pre-shared keys would have to be the last."""
    body = record[9:]
    at = 34
    at += 1 + body[at]  # session id
    at += 2 + int.from_bytes(body[at : at + 2], "big")  # cipher suites
    at += 1 + body[at]  # compression methods
    extensions = struct.pack("!HH", kind, len(contents)) + contents + body[at + 2 :]
    body = body[:at] + struct.pack("!H", len(extensions)) + extensions
    handshake = b"\x01" + len(body).to_bytes(3, "big") + body
    return record[:3] + struct.pack("!H", len(handshake)) + handshake


def quic_initial(name: str, address: str) -> list[bytes]:
    """The datagrams with which a client of HTTP/3 begins (RFC 9000 section 14.1); a server answers the first of them."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=name, verify_mode=ssl.CERT_NONE)
    connection = QuicConnection(configuration=configuration)
    connection.connect((address, 443), now=0.0)
    return [data for data, _ in connection.datagrams_to_send(now=0.0)]
