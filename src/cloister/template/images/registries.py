"""What the operator says of registries: which are on this very host, and which need no TLS.

Names are ``host:port`` as references have them. Pure functions on text; no I/O. A registry of this host is reached by a door, which only
the sandbox of a pull from exactly that name gets (network/door.py).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from cloister.errors import InvalidRequestError
from cloister.template.interfaces import HostDoor

__all__ = ["Registries"]

_WORD = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_NAME = re.compile(rf"(?P<host>{_WORD}(?:\.{_WORD})*|\[[0-9a-f:]+\])(?::(?P<port>[0-9]{{1,5}}))?\Z")
_MAX_PORT = 65535


class Registries:
    """The settings ``host_registries`` and ``insecure_registries``."""

    def __init__(self, on_host: tuple[str, ...] = (), insecure: tuple[str, ...] = ()) -> None:
        """Raises: InvalidRequestError."""
        self._doors = {text.lower(): _door(text) for text in on_host}
        self._insecure = {text.lower() for text in insecure}
        for text in insecure:
            if _split(text) is None:
                raise InvalidRequestError(f"insecure_registries: '{text}' is not of the form HOST or HOST:PORT")

    def door(self, name: str) -> HostDoor | None:
        """The way to the registry of that name, if it is on this host."""
        return self._doors.get(name.lower())

    def is_insecure(self, name: str) -> bool:
        """Whether it may be spoken to without TLS. One at a loopback address always may, as with Docker."""
        return name.lower() in self._insecure or _is_loopback(name)

    def is_out_of_reach(self, name: str) -> bool:
        """Whether it is at a loopback address, and not listed: whatever that leads to in a sandbox is not what was meant."""
        return _is_loopback(name) and self.door(name) is None


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


def _door(text: str) -> HostDoor:
    split = _split(text)
    if split is None or split[1] is None:
        raise InvalidRequestError(f"host_registries: '{text}' is not of the form HOST:PORT, such as localhost:5000")
    if isinstance(_address(split[0]), IPv6Address):
        raise InvalidRequestError(f"host_registries: '{text}': sandboxes have no IPv6; name it by a name or an IPv4 address")
    return HostDoor(split[0], split[1])
