"""The operator's settings of registries: which are on this very host, and which need no TLS.

Names are ``host:port``, as in references. Pure functions on text; no I/O. Only the sandbox that pulls from exactly a listed name can reach
that registry of this host.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from cloister.errors import InvalidRequestError
from cloister.template.interfaces import HostEndpoint

__all__ = ["RegistrySettings"]

_WORD = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_NAME = re.compile(rf"(?P<host>{_WORD}(?:\.{_WORD})*|\[[0-9a-f:]+\])(?::(?P<port>[0-9]{{1,5}}))?\Z")
_MAX_PORT = 65535


class RegistrySettings:
    """The settings ``host_registries`` and ``insecure_registries``."""

    def __init__(self, on_host: tuple[str, ...] = (), insecure: tuple[str, ...] = ()) -> None:
        """Raises: InvalidRequestError."""
        self._host_endpoints = {text.lower(): _endpoint(text) for text in on_host}
        self._insecure = {text.lower() for text in insecure}
        for text in insecure:
            if _split(text) is None:
                raise InvalidRequestError(f"insecure_registries: '{text}' is not of the form HOST or HOST:PORT")

    def host_endpoint(self, name: str) -> HostEndpoint | None:
        """The address and port of the registry of that name. None: it is not on this host."""
        return self._host_endpoints.get(name.lower())

    def is_insecure(self, name: str) -> bool:
        """Whether the connection may lack TLS. At a loopback address it always may, as with Docker."""
        return name.lower() in self._insecure or _is_loopback(name)

    def is_out_of_reach(self, name: str) -> bool:
        """Whether it has a loopback address and is not listed. Inside a sandbox, that address leads elsewhere."""
        return _is_loopback(name) and self.host_endpoint(name) is None


def _split(name: str) -> tuple[str, int | None] | None:
    found = _NAME.match(name.lower())
    if found is None or (found["port"] and not 0 < int(found["port"]) <= _MAX_PORT):
        return None
    return found["host"], int(found["port"]) if found["port"] else None


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_loopback(name: str) -> bool:
    split = _split(name)
    if split is None:
        return False
    address = _address(split[0])
    return split[0] == "localhost" or (address is not None and address.is_loopback)


def _endpoint(text: str) -> HostEndpoint:
    split = _split(text)
    if split is None or split[1] is None:
        raise InvalidRequestError(f"host_registries: '{text}' is not of the form HOST:PORT, such as localhost:5000")
    if isinstance(_address(split[0]), IPv6Address):
        raise InvalidRequestError(f"host_registries: '{text}': sandboxes have no IPv6; use a name or an IPv4 address")
    return HostEndpoint(split[0], split[1])
