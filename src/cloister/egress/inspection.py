"""Finds the name that a new connection asks for, in its first bytes, which are put back.

Names are read from a TLS ClientHello (port 443) or the head of an HTTP/1 request (port 80), within bounds of bytes and ``TIMEOUT_S``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from cloister.egress.client_hello import MAX_HELLO_BYTES, HelloError, parse_client_hello
from cloister.egress.reasons import Reason
from cloister.egress.request_head import HeadError, parse_request_head
from cloister.egress.streams import ByteStream
from cloister.egress.verdicts import NAME_PORTS

__all__ = ["TIMEOUT_S", "Inspected", "InspectionError", "inspect"]

TIMEOUT_S = 10.0
_MAX_BYTES = MAX_HELLO_BYTES + 1024
"""Of a ClientHello with the headers of its records. A request's head has a bound of its own."""
_MAX_READS = 2048
"""Each is parsed from the front again."""


class InspectionError(Exception):
    """No name that could be trusted. ``reason`` is for the record."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Inspected:
    """What the first bytes of a connection say."""

    name: str | None = None
    """In lower case; None: they name no host."""
    is_tls: bool = False
    is_encrypted: bool = False
    """Whether the true name may be another one, which is encrypted."""


async def inspect(stream: ByteStream, port: int, timeout_s: float = TIMEOUT_S) -> Inspected:
    """Read until the name is known; what was read is put back, after an error too. Raises: InspectionError, OSError."""
    parse = _tls if NAME_PORTS[port] == "tls" else _http
    data = b""
    try:
        async with asyncio.timeout(timeout_s):
            for _ in range(_MAX_READS):
                if (found := parse(data)) is not None:
                    return found
                if len(data) >= _MAX_BYTES:
                    break
                if not (more := await stream.read(_MAX_BYTES - len(data))):
                    raise InspectionError("no_name")
                data += more
            raise InspectionError("head_too_long")
    except TimeoutError:
        raise InspectionError("no_name_in_time") from None
    finally:
        stream.unread(data)


_Parse = Callable[[bytes], Inspected | None]


def _tls(data: bytes) -> Inspected | None:
    try:
        hello = parse_client_hello(data)
    except HelloError:
        raise InspectionError("malformed_tls") from None
    return None if hello is None else Inspected(hello.name, is_tls=True, is_encrypted=hello.is_encrypted)


def _http(data: bytes) -> Inspected | None:
    try:
        head = parse_request_head(data) if data else None
    except HeadError as error:
        raise InspectionError(error.reason) from None
    return None if head is None else Inspected(head.name)
