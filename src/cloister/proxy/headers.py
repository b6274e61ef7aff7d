"""The headers that the ingress forwards. Pure.

It forwards all headers unchanged, with four exceptions: hop-by-hop headers (RFC 9110 section 7.6.1), headers for the ingress itself, the
``X-Forwarded-*`` headers, which the ingress sets, and the console's cookie. Answers that do not come under the sandbox's own host lose more
(``share_origin``, ``confine``). Invariant: no sandbox receives that cookie or sets it.
"""

from __future__ import annotations

from collections.abc import Iterable

from multidict import CIMultiDict

from cloister.model.console import COOKIES

__all__ = ["confine", "request_headers", "response_headers", "share_origin"]

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
_CONSOLE = frozenset(name.encode() for name in COOKIES)
_OF_ORIGIN = ("Alt-Svc", "Clear-Site-Data", "NEL", "Report-To", "Reporting-Endpoints", "Strict-Transport-Security")
"""Headers by which an answer decides about all pages of its origin."""
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


def _is_of_console(cookie: bytes) -> bool:
    """Browsers keep ``=name=value`` as a cookie without a name, and send it as ``name=value``."""
    return cookie.lstrip(b" \t=").partition(b"=")[0].strip() in _CONSOLE


def _without_console(raw: _RawHeaders) -> list[tuple[bytes, bytes]]:
    """The headers without the console's cookie; other cookies stay as they are."""
    kept = []
    for name, value in raw:
        if name.lower() != b"cookie" or not any(_is_of_console(pair) for pair in value.split(b";")):
            kept.append((name, value))
        elif left := b";".join(pair for pair in value.split(b";") if not _is_of_console(pair)).strip():
            kept.append((name, left))
    return kept


def _passing(raw: _RawHeaders, dropped: frozenset[bytes]) -> CIMultiDict[str]:
    dropped |= _named_by_connection(raw)
    return CIMultiDict((_text(name), _text(value)) for name, value in raw if name.lower() not in dropped)


def request_headers(
    raw: _RawHeaders, *, peer: str, host: str, scheme: str, upgrade: bool, shown_host: str | None = None
) -> CIMultiDict[str]:
    """A client's headers as the sandbox receives them. ``shown_host`` replaces Host; X-Forwarded-Host keeps the client's."""
    headers = _passing(_without_console(raw), _HOP | _OWN)
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
    headers = _passing([(name, value) for name, value in raw if name.lower() != b"set-cookie" or not _is_of_console(value)], _HOP)
    if upgrade:
        headers["Connection"] = "Upgrade"
        headers["Upgrade"] = "websocket"
    return headers


def share_origin(headers: CIMultiDict[str]) -> None:
    """Keep a sandbox's answer from deciding about an origin that is not the sandbox's own.

    A request that names its sandbox in a header may have the URL of the console, or of another sandbox's page. A cache would give its
    answer later for the bare URL.
    """
    for name in _OF_ORIGIN:
        headers.popall(name, None)
    headers["Cache-Control"] = "no-store"


def confine(headers: CIMultiDict[str]) -> None:
    """Keep a sandbox's answer on the API's own origin, where the console lives, from acting as a page of it."""
    headers.popall("Set-Cookie", None)
    headers["Content-Security-Policy"] = "sandbox"
    headers["X-Content-Type-Options"] = "nosniff"
