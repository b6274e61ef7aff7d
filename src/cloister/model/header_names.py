"""Names of headers that a network rule may set. Pure. Source: RFC 9110 section 5.6.2; RFC 9112 section 11.2."""

from __future__ import annotations

import re

__all__ = ["FRAMING_HEADERS", "MAX_HEADER_NAME", "is_header_name"]

MAX_HEADER_NAME = 64
"""Characters."""
FRAMING_HEADERS = frozenset({
    "connection", "content-length", "expect", "host", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
})  # fmt: skip
"""They decide where a request goes and where it ends, and so how a server reads the next one. A rule must not set them."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")


def is_header_name(text: str) -> bool:
    """Whether ``text`` is a token of no more than :data:`MAX_HEADER_NAME` characters."""
    return len(text) <= MAX_HEADER_NAME and bool(_TOKEN.match(text))
