"""The headers that the ingress forwards. Pure.

It forwards all headers unchanged, with three exceptions: hop-by-hop headers (RFC 9110 section 7.6.1), headers for the ingress itself, and
the ``X-Forwarded-*`` headers, which the ingress sets.
"""

from __future__ import annotations

from collections.abc import Iterable

from multidict import CIMultiDict

__all__ = ["request_headers", "response_headers"]

_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_OWN = frozenset({b"e2b-traffic-access-token", b"expect", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"})
_RawHeaders = Iterable[tuple[bytes, bytes]]


def _named_by_connection(raw: _RawHeaders) -> frozenset[bytes]:
    named: set[bytes] = set()
    for name, value in raw:
        if name.lower() == b"connection":
            named.update(part.strip().lower() for part in value.split(b","))
    return frozenset(named - {b"", b"close", b"keep-alive", b"upgrade"})


def _text(value: bytes) -> str:
    """Decode UTF-8, or Latin-1 if the bytes are not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _passing(raw: _RawHeaders, dropped: frozenset[bytes]) -> CIMultiDict[str]:
    dropped |= _named_by_connection(raw)
    return CIMultiDict((_text(name), _text(value)) for name, value in raw if name.lower() not in dropped)


def request_headers(
    raw: _RawHeaders, *, peer: str, host: str, scheme: str, upgrade: bool, shown_host: str | None = None
) -> CIMultiDict[str]:
    """A client's headers as the sandbox receives them. ``shown_host`` replaces Host; X-Forwarded-Host keeps the client's."""
    headers = _passing(raw, _HOP | _OWN)
    known = {name.lower(): value for name, value in raw}
    earlier = known.get(b"x-forwarded-for")
    headers["X-Forwarded-For"] = f"{_text(earlier)}, {peer}" if earlier else peer
    headers["X-Forwarded-Host"] = _text(known.get(b"x-forwarded-host", host.encode(errors="surrogateescape")))
    headers["X-Forwarded-Proto"] = _text(known.get(b"x-forwarded-proto", scheme.encode()))
    if shown_host is not None:
        headers["Host"] = shown_host
    if upgrade:
        headers["Connection"] = "Upgrade"
        headers["Upgrade"] = "websocket"
    return headers


def response_headers(raw: _RawHeaders, *, upgrade: bool) -> CIMultiDict[str]:
    """A sandbox's headers as the client receives them."""
    headers = _passing(raw, _HOP)
    if upgrade:
        headers["Connection"] = "Upgrade"
        headers["Upgrade"] = "websocket"
    return headers
