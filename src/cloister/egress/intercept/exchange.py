"""The terms of one intercepted connection: its destination, the headers that its requests get, and its answers to refused ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cloister.egress.intercept.requests import Destination, Headers, RefusedRequestError
from cloister.egress.pace import Pace

__all__ = ["Exchange", "refusal_body", "refusal_headers"]


@dataclass(frozen=True)
class Exchange:
    """The terms of one connection."""

    destination: Destination
    injected: Callable[[], Awaitable[Headers]]
    """The headers for one more request, as the rules are now. Raises: RefusedRequestError."""
    note: Callable[[RefusedRequestError], None] = lambda _refusal: None
    """Told of each refused request."""
    pace: Pace = field(default_factory=Pace)
    """The sandbox's turns, in which messages are read."""
    is_wide: bool = True
    """Whether HTTP/2 may hold the bytes of fast transfers; there is not room for that on every connection."""


def refusal_body(refusal: RefusedRequestError) -> bytes:
    """The text of an answer to a refused request."""
    return f"cloister: {refusal.text}\n".encode()


def refusal_headers(refusal: RefusedRequestError) -> Headers:
    """The headers of that answer."""
    return [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(refusal_body(refusal))).encode()),
        (b"cache-control", b"no-store"),
    ]
