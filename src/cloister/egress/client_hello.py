"""Reads the server name from a TLS ClientHello. Pure.

Strict: a server must not read another name from the same bytes. So a second name, a repeated extension, an empty record, another message
in the same records, or a length that does not fit is a fault and not skipped. Unknown extensions and values (GREASE, RFC 8701) are skipped.
Source: RFC 8446 section 4.1.2 and 5.1, RFC 6066 section 3, RFC 9849 (encrypted ClientHello).
"""

from __future__ import annotations

from dataclasses import dataclass

from cloister.model.host_patterns import clean_name

__all__ = ["MAX_HELLO_BYTES", "ClientHello", "HelloError", "parse_client_hello"]

MAX_HELLO_BYTES = 16 << 10
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_RECORD_HEADER, _MESSAGE_HEADER = 5, 4
_MAX_RECORD = 1 << 14
_MAX_RECORDS = 32
_RANDOM_BYTES = 32
_MAX_SESSION_ID = 32
_SERVER_NAME, _HOST_NAME = 0, 0
_PROTOCOLS = 16
_ENCRYPTED = (0xFE0D, 0xFFCE)
"""Extensions that hide the true name: encrypted ClientHello, and its forerunner."""


class HelloError(Exception):
    """The bytes are no well-formed ClientHello."""


@dataclass(frozen=True)
class ClientHello:
    """What was read from it."""

    name: str | None
    """In lower case; None: it has none, or an address."""
    is_encrypted: bool
    """Whether it has an encrypted ClientHello, which may ask for another name. GREASE looks the same."""
    protocols: tuple[str, ...] = ()
    """The protocols that the client offers (ALPN, RFC 7301), most wanted first."""


class _Reader:
    """Takes values from the front of ``data``. Raises: HelloError: there are too few bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) < count:
            raise HelloError("a length goes beyond the end")
        self._at += count
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Bytes after their length, a number of ``size`` bytes."""
        return self.take(self.number(size))

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._data)


def parse_client_hello(data: bytes) -> ClientHello | None:
    """The ClientHello at the front of a connection; None: more bytes are needed. Raises: HelloError."""
    message = _handshake_message(data)
    return None if message is None else _parse(message)


def _handshake_message(data: bytes) -> bytes | None:
    """The body of the first handshake message, joined from its records."""
    message, at, records = b"", 0, 0
    while len(message) < _MESSAGE_HEADER or len(message) < _MESSAGE_HEADER + int.from_bytes(message[1:4], "big"):
        header = data[at : at + _RECORD_HEADER]
        if header[:1] not in (b"", bytes([_HANDSHAKE])) or header[1:2] not in (b"", b"\x03"):
            raise HelloError("not a TLS handshake record")
        if len(header) < _RECORD_HEADER:
            return None
        length = int.from_bytes(header[3:5], "big")
        records += 1
        if not 0 < length <= _MAX_RECORD or records > _MAX_RECORDS:
            raise HelloError("the length or the number of records")
        at += _RECORD_HEADER
        message += data[at : at + length]
        if message[:1] not in (b"", bytes([_CLIENT_HELLO])) or int.from_bytes(message[1:4], "big") > MAX_HELLO_BYTES:
            raise HelloError("not a ClientHello, or too long a one")
        if len(data) < at + length:
            return None
        at += length
    if len(message) != _MESSAGE_HEADER + int.from_bytes(message[1:4], "big"):
        raise HelloError("another message follows in the same record")
    return message[_MESSAGE_HEADER:]


def _parse(message: bytes) -> ClientHello:
    reader = _Reader(message)
    if reader.number(2) >> 8 != 3:
        raise HelloError("the version")
    reader.take(_RANDOM_BYTES)
    session_id, ciphers, compressions = reader.vector(1), reader.vector(2), reader.vector(1)
    if len(session_id) > _MAX_SESSION_ID or not ciphers or len(ciphers) % 2 or not compressions:
        raise HelloError("the session id, ciphers or compressions")
    if reader.is_at_end:
        return ClientHello(None, is_encrypted=False)
    extensions = _extensions(reader.vector(2))
    if not reader.is_at_end:
        raise HelloError("bytes after the extensions")
    name = _server_name(extensions[_SERVER_NAME]) if _SERVER_NAME in extensions else None
    protocols = _protocols(extensions[_PROTOCOLS]) if _PROTOCOLS in extensions else ()
    return ClientHello(name, is_encrypted=any(kind in extensions for kind in _ENCRYPTED), protocols=protocols)


def _extensions(data: bytes) -> dict[int, bytes]:
    reader, found = _Reader(data), dict[int, bytes]()
    while not reader.is_at_end:
        kind = reader.number(2)
        if kind in found:
            raise HelloError("a repeated extension")
        found[kind] = reader.vector(2)
    return found


def _server_name(data: bytes) -> str | None:
    reader = _Reader(data)
    names = _Reader(reader.vector(2))
    if not reader.is_at_end or names.number(1) != _HOST_NAME:
        raise HelloError("the list of server names")
    name = names.vector(2)
    if not names.is_at_end:
        raise HelloError("several server names")
    return clean_name(name)


def _protocols(data: bytes) -> tuple[str, ...]:
    reader, found = _Reader(data), list[str]()
    names = _Reader(reader.vector(2))
    while not names.is_at_end:
        found.append(names.vector(1).decode("latin-1"))
    if not reader.is_at_end or not found or "" in found:
        raise HelloError("the list of protocols")
    return tuple(found)
