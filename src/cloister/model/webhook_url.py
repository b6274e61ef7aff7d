"""The URLs of webhooks: which ones may be given. No I/O: the address behind a name is checked when an event is sent there."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address
from urllib.parse import urlsplit

from cloister.errors import InvalidRequestError
from cloister.model.host_patterns import clean_name

__all__ = ["parse_webhook_url"]

_MAX_LENGTH = 2048
_SCHEMES = ("http", "https")


def parse_webhook_url(text: str) -> str:
    """The host of a webhook's URL: a name, or an IPv4 address in its usual form. Raises: InvalidRequestError."""
    if not text or len(text) > _MAX_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidRequestError(f"url must be 1 to {_MAX_LENGTH} printable ASCII characters without spaces")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidRequestError("url is malformed") from error
    if parts.scheme not in _SCHEMES or port == 0:
        raise InvalidRequestError("url must begin with https:// or http://, and have a valid port if it has one")
    if "@" in parts.netloc or "\\" in text or parts.fragment:
        raise InvalidRequestError("url must have no user, no backslash and no fragment", hint="sign deliveries by signatureSecret")
    host = parts.hostname or ""
    if clean_name(host.encode()) is None and not _is_address(host):
        raise InvalidRequestError("url must have the name of a host, or an IPv4 address such as 192.0.2.1")
    return host


def _is_address(host: str) -> bool:
    try:
        return str(IPv4Address(host)) == host
    except AddressValueError:
        return False
