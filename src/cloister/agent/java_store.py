"""Changes one certificate of a Java trust store: a PKCS #12 file without a password, as the host layer has it. Pure.

Such a store is a nest of DER with a list of parts in the middle, and perhaps a checksum. This module appends or removes a whole part of
its own, leaves the host's part as it is, and drops the checksum: the JDK reads a store without one, and checks one only with a password.
Source: RFC 7292; the attribute that makes a certificate trusted is the JDK's (sun.security.pkcs12.PKCS12KeyStore).
"""

from __future__ import annotations

__all__ = ["replace_certificate"]

_OCTETS, _BMP_TEXT, _SEQUENCE, _SET, _FIRST = 0x04, 0x1E, 0x30, 0x31, 0xA0
_VERSION = b"\x02\x01\x03"
_DATA = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"
_CERT_BAG = b"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01\x03"
_X509 = b"\x06\x0a\x2a\x86\x48\x86\xf7\x0d\x01\x09\x16\x01"
_FRIENDLY_NAME = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x14"
_TRUSTED_KEY_USAGE = b"\x06\x0c\x60\x86\x48\x01\x86\xf9\x66\xad\xca\x7b\x01\x01"
_ANY_USAGE = b"\x06\x04\x55\x1d\x25\x00"
_ALIAS = "cloister-sandbox"


def replace_certificate(store: bytes, removed: bytes, added: bytes) -> bytes | None:
    """The store without the part for the certificate ``removed`` and with one for ``added`` (DER; empty: none).

    None: the store has another form.
    """
    parts = _parts(store)
    if parts is None:
        return None
    kept = [part for part in parts if not removed or part != _part(removed)]
    changed = [*kept, _part(added)] if added else kept
    if changed == parts:
        return store
    parts = changed
    content = _wrap(_SEQUENCE, _DATA, _wrap(_FIRST, _wrap(_OCTETS, _wrap(_SEQUENCE, *parts))))
    return _wrap(_SEQUENCE, _VERSION, content)


def _parts(store: bytes) -> list[bytes] | None:
    """The elements of the list in the middle of a store."""
    try:
        version, content, *_mac = _elements(_only(store, _SEQUENCE))
        kind, wrapped = _elements(_only(content, _SEQUENCE))
        if version != _VERSION or kind != _DATA:
            return None
        return _elements(_only(_only(_only(wrapped, _FIRST), _OCTETS), _SEQUENCE))
    except ValueError:
        return None


def _part(certificate: bytes) -> bytes:
    bag = _wrap(_SEQUENCE, _X509, _wrap(_FIRST, _wrap(_OCTETS, certificate)))
    name = _wrap(_SEQUENCE, _FRIENDLY_NAME, _wrap(_SET, _wrap(_BMP_TEXT, _ALIAS.encode("utf-16-be"))))
    trusted = _wrap(_SEQUENCE, _TRUSTED_KEY_USAGE, _wrap(_SET, _ANY_USAGE))
    bags = _wrap(_SEQUENCE, _wrap(_SEQUENCE, _CERT_BAG, _wrap(_FIRST, bag), _wrap(_SET, name, trusted)))
    return _wrap(_SEQUENCE, _DATA, _wrap(_FIRST, _wrap(_OCTETS, bags)))


def _wrap(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size, "big") + content


def _only(data: bytes, tag: int) -> bytes:
    """The content of the one element of ``data``. Raises: ValueError: it is another element, or more than one."""
    found, start, end = _header(data, 0)
    if found != tag or end != len(data):
        raise ValueError("another element")
    return data[start:end]


def _elements(data: bytes) -> list[bytes]:
    """Raises: ValueError."""
    found, at = [], 0
    while at < len(data):
        _, _, end = _header(data, at)
        found.append(data[at:end])
        at = end
    return found


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the content of the element at ``at``. Raises: ValueError."""
    if at + 2 > len(data):
        raise ValueError("too short")
    tag, length, start = data[at], data[at + 1], at + 2
    if length == 0x80 or length > 0x84:
        raise ValueError("no length")
    if length > 0x80:
        size = length - 0x80
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
    if start + length > len(data):
        raise ValueError("too short")
    return tag, start, start + length
