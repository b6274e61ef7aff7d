"""Parses addresses and ports in settings. Pure: asks no resolver."""

from __future__ import annotations

import re
from ipaddress import ip_address

from cloister.errors import InvalidRequestError

__all__ = ["NO_DOMAIN", "UNRESOLVED_DOMAIN", "is_address", "is_host_name", "is_loopback", "parse_listen", "parse_upstream", "told_domain"]

_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
_MAX_NAME = 253
_MAX_PORT = 65535
_DNS_PORT = "53"
_HTTP_PORT = 80
NO_DOMAIN = "headers-only"
"""A value of the setting ``domain``: clients reach sandboxes at the server's one address, by headers."""
UNRESOLVED_DOMAIN = "no-domain.invalid"
"""The domain reported by a server without one. It never resolves (RFC 6761 section 6.4), so clients cannot send anything to it."""


def is_address(text: str) -> bool:
    """Whether ``text`` is an IPv4 or IPv6 address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach a listener on ``host``, an address or a name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def told_domain(domain: str | None, port: int) -> str:
    """The domain that the API reports. Clients expect each sandbox's ports below it, as ``<port>-<id>.<domain>``.

    It is never empty: with an empty domain the official SDKs send programs to their vendor's domain. ``domain`` is the setting; None: the
    listener is on loopback, at ``port``.
    """
    if domain == NO_DOMAIN:
        return UNRESOLVED_DOMAIN
    return domain or ("localhost" if port == _HTTP_PORT else f"localhost:{port}")


def is_host_name(text: str) -> bool:
    """Whether ``text`` is a valid host name. Source: RFC 1123, section 2.1."""
    return len(text) <= _MAX_NAME and bool(_NAME.match(text)) and not text.rpartition(".")[2].isdigit()


def parse_listen(text: str) -> tuple[str, int]:
    """Parse ``HOST:PORT`` or ``[HOST]:PORT``; the host is an address or a name, and the kernel replaces port 0 by a free one.

    Raises: InvalidRequestError.
    """
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not (port.isascii() and port.isdigit()):
        raise InvalidRequestError(f"{text!r} is not HOST:PORT", hint="such as 127.0.0.1:3000 or [::1]:3000")
    if int(port) > _MAX_PORT:
        raise InvalidRequestError(f"{text!r}: a port is at most {_MAX_PORT}", hint="such as 127.0.0.1:3000")
    if not is_address(host) and not is_host_name(host):
        raise InvalidRequestError(f"{text!r}: {host!r} is neither an address nor a name", hint="such as 127.0.0.1:3000 or [::1]:3000")
    return host, int(port)


def parse_upstream(text: str) -> tuple[str, int]:
    """Parse a resolver (``address``, ``address:port`` or ``[address]:port``) to (address, port).

    Raises: InvalidRequestError. Names are refused: to resolve one needs a resolver.
    """
    host, port = text, _DNS_PORT
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or _DNS_PORT
    elif text.count(":") == 1:
        host, port = text.split(":")
    if not is_address(host) or not (port.isascii() and port.isdigit()):
        hint = "such as 192.0.2.1 or [2001:db8::1]:53"
        raise InvalidRequestError(f"upstream resolver {text!r} is not an address or address:port", hint=hint)
    if not 0 < int(port) <= _MAX_PORT:
        raise InvalidRequestError(f"upstream resolver {text!r}: port out of range", hint=f"a port is 1 to {_MAX_PORT}")
    return host, int(port)
