"""The parser of request heads: finds the host that a server would find, and refuses heads that servers read differently."""

from __future__ import annotations

import random

import pytest

from cloister.egress.request_head import MAX_HEAD_BYTES, HeadError, parse_request_head

_END = b"\r\n\r\n"


def _name(head: bytes) -> str | None:
    found = parse_request_head(head + _END)
    assert found is not None
    return found.name


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"GET / HTTP/1.1\r\nHost: API.example.com", "api.example.com"),
        (b"GET / HTTP/1.1\r\nA: b\r\nhost:api.example.com:80 \r\nC: d", "api.example.com"),
        (b"GET http://api.example.com/x HTTP/1.1\r\nHost: api.example.com", "api.example.com"),
        (b"GET HTTP://API.example.com HTTP/1.0", "api.example.com"),
        (b"OPTIONS * HTTP/1.1\r\nHost: api.example.com", "api.example.com"),
        (b"GET / HTTP/1.1\r\nHost: api.example.com:8080", None),
        (b"GET / HTTP/1.1\r\nHost: 192.0.2.1", None),
        (b"GET / HTTP/1.1\r\nHost: api.example.com.", None),
        (b"GET / HTTP/1.1\r\nHost: a@api.example.com", None),
        (b"GET / HTTP/1.1\r\nHost: ", None),
        (b"GET / HTTP/1.0", None),
    ],
)
def test_the_host_is_found(head: bytes, name: str | None) -> None:
    """The host is that of the Host header or of an absolute URI, without the port 80; an address or another port is no name."""
    assert _name(head) == name


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: good.example\r\nHost: evil.example", "several_hosts"),
        (b"GET / HTTP/1.1\r\nHost: good.example\r\nHost: good.example", "several_hosts"),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: good.example", "several_hosts"),
        (b"GET http://good.example@evil.example/ HTTP/1.1\r\nHost: good.example", "malformed_target"),
        (b"GET / HTTP/1.1\r\nHost: good.example\r\n evil.example", "malformed_head"),
        (b"GET / HTTP/1.1\r\nX: y\r\n\tz\r\nHost: good.example", "malformed_head"),
        (b"GET / HTTP/1.1\r\nHost : good.example", "malformed_head"),
        (b"GET / HTTP/1.1\r\nX: y\nHost: evil.example\r\nHost: good.example", "malformed_head"),
        (b"GET / HTTP/1.1\r\nX: y\rHost: evil.example\r\nHost: good.example", "malformed_head"),
        (b"GET / HTTP/1.1\nHost: good.example", "not_http"),
        (b"GET  / HTTP/1.1\r\nHost: good.example", "not_http"),
        (b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example", "connect_method"),
        (b"GET good.example:443 HTTP/1.1\r\nHost: good.example", "malformed_target"),
        (b"GET https://good.example/ HTTP/1.1\r\nHost: good.example", "malformed_target"),
        (b"PRI * HTTP/2.0", "not_http"),
        (b"GET / HTTP/0.9", "not_http"),
        (b"\x16\3\1\2\0", "not_http"),
        (b"SSH-2.0-x", "not_http"),
    ],
)
def test_an_ambiguous_head_is_refused(head: bytes, reason: str) -> None:
    """Two hosts, folded or bare lines, CONNECT, HTTP/2 by prior knowledge and other protocols give no name."""
    with pytest.raises(HeadError) as caught:
        parse_request_head(head + _END)
    assert caught.value.reason == reason


def test_a_head_is_bounded() -> None:
    """A head that does not end within the bound is refused, and other protocols before it does."""
    head = b"GET / HTTP/1.1\r\nX: "
    assert parse_request_head(head.ljust(MAX_HEAD_BYTES - 1, b"x")) is None
    for data in (head.ljust(MAX_HEAD_BYTES, b"x"), head.ljust(MAX_HEAD_BYTES, b"x") + _END):
        with pytest.raises(HeadError):
            parse_request_head(data)
    with pytest.raises(HeadError):
        parse_request_head(b"\x16\3")


def test_each_beginning_asks_for_more() -> None:
    """A head that comes byte by byte is found when it is whole."""
    head = b"GET / HTTP/1.1\r\nHost: api.example.com" + _END
    assert all(parse_request_head(head[:end]) is None for end in range(1, len(head)))
    found = parse_request_head(head + b"body")
    assert found is not None
    assert found.length == len(head)


def test_random_damage_raises_nothing_else() -> None:
    """Damaged heads give a name, a wish for more, or HeadError; a name is always one that the head shows."""
    chosen = random.Random(2)
    for _ in range(20_000):
        data = bytearray(b"GET http://good.example/x HTTP/1.1\r\nA: b\r\nHost: good.example\r\nC: d" + _END)
        for _ in range(chosen.randrange(1, 4)):
            data[chosen.randrange(len(data))] = chosen.choice(b"\r\n\t :@/\0ab\xff")
        try:
            found = parse_request_head(bytes(data))
        except HeadError:
            continue
        assert found is None or found.name is None or found.name.encode() in data
