"""Requests to the kernel that change addresses, links and routes. Source: rtnetlink(7). Standard library only."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterable

from .base import fail

__all__ = ["INTERFACE", "ask", "attribute", "change_link", "delete_route", "make_tunnel", "new_address"]

_REQUEST, _ACK, _CREATE, _EXCL = 1, 4, 0x400, 0x200
_ERROR = 2


def INTERFACE() -> int:  # noqa: N802 - reads as the constant that it is in a sandbox
    """The number of the interface that is not loopback."""
    return next(number for number, name in socket.if_nameindex() if name != "lo")


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def ask(kind: int, header: bytes, attributes: Iterable[bytes] = (), *, flags: int = 0, protocol: int = 0) -> str:
    """A request of a kind. Raises: OSError, as the kernel says."""
    body = header + b"".join(attributes)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(5)
        sock.sendto(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, 1, 0) + body, (0, 0))
        answer = sock.recv(1 << 16)
    answered, said = struct.unpack_from("=H", answer, 4)[0], struct.unpack_from("=i", answer, 16)[0]
    if answered == _ERROR and said:
        fail(-said)
    return "done"


def new_address(address: str, *, delete: bool = False) -> str:
    """RTM_NEWADDR or RTM_DELADDR."""
    header = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, INTERFACE())
    packed = socket.inet_aton(address)
    return ask(21 if delete else 20, header, [attribute(1, packed), attribute(2, packed)], flags=0 if delete else _CREATE | _EXCL)


def change_link(*, up: bool, attributes: Iterable[bytes] = ()) -> str:
    """RTM_NEWLINK for the interface that is there."""
    return ask(16, struct.pack("=BBHiII", 0, 0, 0, INTERFACE(), int(up), 1), attributes)


def delete_route() -> str:
    """RTM_DELROUTE for the default route."""
    return ask(25, struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 0, 0, 0, 0))


def make_tunnel() -> object:
    """TUNSETIFF: an interface whose packets a program writes."""
    return fcntl.ioctl(os.open("/dev/net/tun", os.O_RDWR), 0x400454CA, struct.pack("16sH22x", b"attack0", 1))
