"""The parser of ClientHellos: finds the name that a server would find, whatever the records look like, and refuses what is ambiguous."""

from __future__ import annotations

import random
import struct

import pytest

from cloister.egress.client_hello import HelloError, parse_client_hello
from framework.client_hello import client_hello


def _extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!HH", kind, len(data)) + data


def _sni(*names: bytes) -> bytes:
    listed = b"".join(b"\0" + struct.pack("!H", len(name)) + name for name in names)
    return _extension(0, struct.pack("!H", len(listed)) + listed)


def _message(*extensions: bytes, more: bytes = b"") -> bytes:
    """A handshake message: a ClientHello with these extensions."""
    listed = b"".join(extensions)
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + struct.pack("!H", len(listed)) + listed + more
    return b"\1" + len(body).to_bytes(3, "big") + body


def _record(data: bytes, kind: int = 22) -> bytes:
    return bytes([kind, 3, 1]) + struct.pack("!H", len(data)) + data


def test_the_name_of_a_real_hello_is_found() -> None:
    """A ClientHello of OpenSSL names its server, in lower case."""
    found = parse_client_hello(client_hello("API.example.com"))
    assert found is not None
    assert (found.name, found.is_encrypted) == ("api.example.com", False)


def test_a_hello_without_a_name_has_none() -> None:
    """A ClientHello without SNI, with an address in it, or without extensions at all names no host."""
    for hello in (
        client_hello(None),
        _record(_message(_sni(b"192.0.2.1"))),
        _record(_message(_sni(b"a b"))),
        _record(_message(_sni(b"a."))),
    ):
        found = parse_client_hello(hello)
        assert found is not None
        assert found.name is None
    bare = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    found = parse_client_hello(_record(b"\1" + len(bare).to_bytes(3, "big") + bare))
    assert found is not None
    assert found.name is None


def test_an_encrypted_hello_is_seen() -> None:
    """An encrypted ClientHello is reported beside its outer name; so is that of the older draft."""
    found = parse_client_hello(client_hello("outer.example", ech=True))
    assert found is not None
    assert (found.name, found.is_encrypted) == ("outer.example", True)
    found = parse_client_hello(_record(_message(_sni(b"outer.example"), _extension(0xFFCE, b"x"))))
    assert found is not None
    assert found.is_encrypted


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 500])
def test_records_may_split_a_hello_anywhere(size: int) -> None:
    """A ClientHello in many records has the same name; each beginning of it asks for more."""
    message = _message(_extension(0x0A0A, b""), _sni(b"api.example.com"))
    step = max(size, -(-len(message) // 32))
    chunks = [message[at : at + step] for at in range(0, len(message), step)]
    data = b"".join(map(_record, chunks))
    found = parse_client_hello(data)
    assert found is not None
    assert found.name == "api.example.com"
    assert all(parse_client_hello(data[:end]) is None for end in range(len(data)))


_GOOD = _sni(b"good.example")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\n", id="no TLS"),
        pytest.param(_record(b""), id="an empty record"),
        pytest.param(_record(_message(_GOOD, _sni(b"evil.example"))), id="two extensions with names"),
        pytest.param(_record(_message(_sni(b"good.example", b"evil.example"))), id="two names"),
        pytest.param(_record(_message(_GOOD, more=b"x")), id="bytes after the extensions"),
        pytest.param(_record(_message(_GOOD) + _message(_sni(b"evil.example"))), id="two hellos in a record"),
        pytest.param(_record(_message(_GOOD)[:20]) + _record(b"\1\0", kind=21), id="an alert between"),
        pytest.param(_record(_message(_GOOD)[:20]) + _record(b""), id="an empty record between"),
        pytest.param(_record(b"\2" + _message(_GOOD)[1:]), id="a ServerHello"),
        pytest.param(_record(b"\1\1\0\0" + bytes(9)), id="too long a hello"),
        pytest.param(b"\x16\3\1\x40\1", id="too long a record"),
        pytest.param(b"".join(_record(bytes([byte])) for byte in _message(_GOOD)), id="too many records"),
        pytest.param(b"\x80\x2e\1\3\1", id="SSL 2"),
        pytest.param(_record(_message(_extension(0, b"\0\x10\0\0\4good"))), id="a list that ends early"),
    ],
)
def test_an_ambiguous_hello_is_refused(data: bytes) -> None:
    """Bytes that two parsers could read differently, or that are no ClientHello, are a fault."""
    with pytest.raises(HelloError):
        parse_client_hello(data)


def test_random_damage_raises_nothing_else() -> None:
    """Damaged and cut ClientHellos give a name, a wish for more, or HelloError; never another exception."""
    chosen = random.Random(1)
    samples = [client_hello("api.example.com"), client_hello("outer.example", ech=True), _record(_message(_GOOD))]
    outcomes = set()
    for _ in range(20_000):
        data = bytearray(chosen.choice(samples))
        for _ in range(chosen.randrange(1, 5)):
            data[chosen.randrange(len(data))] = chosen.randrange(256)
        try:
            found = parse_client_hello(bytes(data[: chosen.randrange(len(data) + 1)]))
        except HelloError:
            outcomes.add("fault")
        else:
            outcomes.add("more" if found is None else "found")
    assert outcomes == {"fault", "more", "found"}
