"""Which headers pass through the ingress."""

from __future__ import annotations

from cloister.proxy.headers import request_headers, response_headers


def passed(*raw: tuple[bytes, bytes], upgrade: bool = False) -> list[tuple[str, str]]:
    """A request's headers after the ingress."""
    return list(request_headers(raw, peer="198.51.100.7", host="h", scheme="http", upgrade=upgrade).items())


def test_hop_by_hop_headers_stay_behind() -> None:
    """Headers of the hop, and those that Connection names, do not pass; order and repetition of others are kept."""
    headers = passed((b"Connection", b"close, X-Mine"), (b"X-Mine", b"1"), (b"TE", b"trailers"), (b"A", b"1"), (b"B", b"2"), (b"A", b"3"))
    assert headers[:3] == [("A", "1"), ("B", "2"), ("A", "3")]
    assert {name for name, _ in headers[3:]} == {"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}


def test_forwarding_chain() -> None:
    """The client's address is added to a chain that a proxy before began; its scheme and host are kept."""
    headers = dict(passed((b"X-Forwarded-For", b"192.0.2.1"), (b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-Host", b"front")))
    assert headers["X-Forwarded-For"] == "192.0.2.1, 198.51.100.7"
    assert (headers["X-Forwarded-Proto"], headers["X-Forwarded-Host"]) == ("https", "front")


def test_the_traffic_token_stays_out_of_the_sandbox() -> None:
    """The token that the ingress checks is not passed on."""
    assert "E2b-Traffic-Access-Token" not in dict(passed((b"E2b-Traffic-Access-Token", b"t")))


def test_only_a_wanted_upgrade_passes() -> None:
    """Upgrade is dropped unless the ingress itself asks for a WebSocket."""
    assert "Upgrade" not in dict(passed((b"Upgrade", b"h2c"), (b"Connection", b"Upgrade")))
    headers = dict(passed((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), upgrade=True))
    assert (headers["Upgrade"], headers["Connection"]) == ("websocket", "Upgrade")


def test_bytes_that_are_not_utf8() -> None:
    """UTF-8 values stay as they are; other bytes are taken for Latin-1 instead of failing, in a Host too."""
    host = b"h\xff".decode(errors="surrogateescape")
    forwarded = request_headers((), peer="p", host=host, scheme="http", upgrade=False)
    assert forwarded["X-Forwarded-Host"] == "h\xff"
    headers = response_headers(((b"A", "é".encode()), (b"B", b"\xe9"), (b"Transfer-Encoding", b"chunked")), upgrade=False)
    assert dict(headers) == {"A": "é", "B": "é"}
