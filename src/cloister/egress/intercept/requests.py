"""Rules for one request of a guest, in any HTTP version: it goes to the host of its connection, in a form that cannot be misread. Pure.

A refusal is an answer to the guest; nothing of the request has been forwarded then. Its text has no header's value.
Source: RFC 9110 sections 4.2, 7.2, 7.4 and 15.5.20 (421), RFC 3986 section 3.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Destination", "Headers", "RefusedRequestError", "check_host", "check_method", "origin_form", "with_injected", "without_names"]

Headers = list[tuple[bytes, bytes]]
"""Names and values as on the wire, in order."""

_AUTHORITY = re.compile(rb"(?P<name>[0-9A-Za-z_.-]{1,253})(?::(?P<port>[0-9]{1,5}))?\Z")
_ABSOLUTE = re.compile(rb"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)\Z", re.DOTALL)
_TARGET = re.compile(rb"[\x21-\x7e\x80-\xff]+\Z")


class RefusedRequestError(Exception):
    """A request that is not forwarded. ``status`` and ``text`` are for the guest; the record has the status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True)
class Destination:
    """The one host that a connection serves: its name in lower case."""

    name: str
    port: int
    scheme: str
    """``https`` or ``http``."""


def check_method(method: bytes) -> None:
    """Raises: RefusedRequestError: CONNECT would open a tunnel to another host, and TRACE would return the injected headers."""
    if method in (b"CONNECT", b"TRACE"):
        raise RefusedRequestError(405, f"{method.decode()} is not passed on to this host")


def check_host(authority: bytes, destination: Destination) -> None:
    """Raises: RefusedRequestError: ``authority`` (Host, ``:authority``) is malformed or means another host than the connection's."""
    match = _AUTHORITY.match(authority)
    if match is None:
        raise RefusedRequestError(400, "the request's host is malformed")
    is_same = match["name"].decode().lower() == destination.name and int(match["port"] or destination.port) == destination.port
    if not is_same:
        raise RefusedRequestError(421, "this connection is for another host than the request; open one for the request's host")


def origin_form(target: bytes, destination: Destination) -> bytes:
    """The request target without scheme and authority, which must be the destination's. Raises: RefusedRequestError."""
    if not _TARGET.match(target):
        raise RefusedRequestError(400, "the request's target is malformed")
    if target.startswith(b"/") or target == b"*":
        return target
    match = _ABSOLUTE.match(target)
    if match is None:
        raise RefusedRequestError(400, "the request's target is malformed")
    if match["scheme"].decode("ascii").lower() != destination.scheme:
        raise RefusedRequestError(421, "the request's target has another scheme than its connection")
    check_host(match["authority"], destination)
    rest = match["rest"]
    return rest if rest.startswith(b"/") else b"/" + rest


def without_names(headers: Iterable[tuple[bytes, bytes]], names: Iterable[bytes]) -> Headers:
    """The headers without those of these ``names`` (lower case)."""
    dropped = frozenset(names)
    return [header for header in headers if bytes(header[0]).lower() not in dropped]


def with_injected(headers: Iterable[tuple[bytes, bytes]], injected: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The headers with the injected ones in place of all others of the same names."""
    return [*without_names(headers, (name.lower() for name, _ in injected)), *injected]
