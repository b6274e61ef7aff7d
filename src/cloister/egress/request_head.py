"""Reads the head of an HTTP/1 request: where it ends, and the host that it asks for. Pure.

Strict, because a server must not read another host from the same bytes: lines end in CRLF, a head has one Host, no line is folded, and an
absolute URI names the host that Host names. Source: RFC 9112 sections 2.2, 3.2 and 5.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cloister.egress.reasons import Reason
from cloister.model.host_patterns import clean_name

__all__ = ["MAX_HEAD_BYTES", "HeadError", "RequestHead", "parse_request_head"]

MAX_HEAD_BYTES = 16 << 10
_END = b"\r\n\r\n"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.[01]\Z")
_HEADER = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*\Z")
_ABSOLUTE = re.compile(rb"http://([^/?#@]*)(?:[/?#]|\Z)", re.IGNORECASE)
_STARTS = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}(?: |\Z)")


class HeadError(Exception):
    """The bytes are no request that this parser accepts. ``reason`` is for the record."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class RequestHead:
    """A request without its body."""

    method: bytes
    target: bytes
    name: str | None
    """The host without the port 80, in lower case; None: it names none, an address or another port."""
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case."""
    length: int
    """Bytes of the head with its empty line."""


def parse_request_head(data: bytes) -> RequestHead | None:
    """The head at the front of ``data``; None: more bytes are needed. Raises: HeadError."""
    end = data.find(_END)
    if end < 0:
        if len(data) >= MAX_HEAD_BYTES:
            raise HeadError("head_too_long")
        if not _STARTS.match(data[:33]):
            raise HeadError("not_http")
        return None
    if end + len(_END) > MAX_HEAD_BYTES:
        raise HeadError("head_too_long")
    first, *lines = data[:end].split(b"\r\n")
    request = _REQUEST_LINE.match(first)
    if request is None:
        raise HeadError("not_http")
    headers = tuple(_header(line) for line in lines)
    if request[1].upper() == b"CONNECT":
        raise HeadError("connect_method")
    name = _name(request[2], headers)
    return RequestHead(request[1], request[2], name, headers, end + len(_END))


def _header(line: bytes) -> tuple[bytes, bytes]:
    match = _HEADER.match(line)
    if match is None:  # a folded line has no name, and a lone CR or LF is none of a value's characters
        raise HeadError("malformed_head")
    return match[1].lower(), match[2]


def _name(target: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> str | None:
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1:
        raise HeadError("several_hosts")
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        if not target.startswith(b"/") and target != b"*":
            raise HeadError("malformed_target")
        return _host(hosts[0]) if hosts else None
    if hosts and hosts[0].lower() != absolute[1].lower():
        raise HeadError("several_hosts")
    return _host(absolute[1])


def _host(value: bytes) -> str | None:
    return clean_name(value.removesuffix(b":80"))
