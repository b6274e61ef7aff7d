"""Interfaces, addresses, routes and neighbours by rtnetlink: the seven messages that a sandbox's network needs.

Owns the encoding of those messages; must not know slots or policy.
Why not pyroute2: it runs an event loop behind every socket, and each sandbox needs a socket. Measured for one sandbox's network, it costs
several times the kernel's own time (docs/network.md), a large part of the budget of a creation.
Invariant: a :class:`Netlink` belongs to the network namespace in which it was created, whichever thread uses it later. Not thread-safe.
Runs in: supervisor. Needs: CAP_NET_ADMIN in the network namespace, for changes.
Source: rtnetlink(7), netlink(7), <linux/if_link.h>, <linux/rtnetlink.h>, <linux/veth.h>.
"""

from __future__ import annotations

import array
import errno as errors
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Self

from cloister.errors import IsolationError

__all__ = [
    "NESTED",
    "Change",
    "Link",
    "Netlink",
    "NetlinkSocket",
    "Route",
    "VethEnd",
    "add_address",
    "add_veth",
    "attribute",
    "attributes_of",
    "delete_group",
    "error_of",
    "set_group",
    "set_neighbour",
    "set_route",
    "set_up",
    "settle_carrier",
]

_REQUEST, _ACK, _DUMP, _CREATE, _EXCLUSIVE, _REPLACE = 0x1, 0x4, 0x300, 0x400, 0x200, 0x100
_ERROR, _DONE = 2, 3
_DUMP_INTERRUPTED, _DUMP_TRIES = 0x10, 50
_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _NEWROUTE, _GETROUTE, _NEWNEIGH = 16, 17, 18, 20, 24, 26, 28
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_LINKINFO, _IFLA_GROUP, _IFLA_NET_NS_FD = 1, 3, 4, 5, 18, 27, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA, _RTA_NH_ID = 1, 4, 5, 9, 15, 18, 30
_IFF_UP, _NUD_PERMANENT, _ONLINK = 1, 0x80, 4
_TABLE_MAIN, _PROTO_STATIC, _SCOPE_GLOBAL, _SCOPE_LINK, _UNICAST = 254, 4, 0, 253, 1
NESTED = 0x8000
_SIOCETHTOOL, _ETHTOOL_GLINK = 0x8946, 0xA


@dataclass(frozen=True)
class Link:
    """A network interface; ``peer_index`` is the other end's index in *its* namespace, or 0 without a peer."""

    index: int
    name: str
    mtu: int
    peer_index: int


@dataclass(frozen=True)
class Route:
    """An IPv4 unicast route and the indexes of its interfaces; ``is_on_link`` if one of them has no router."""

    destination: IPv4Network
    table: int
    interfaces: tuple[int, ...]
    is_on_link: bool


@dataclass(frozen=True)
class VethEnd:
    """One end of a veth pair to create; ``mac`` is six bytes, ``group`` is for :func:`delete_group`.

    With ``index`` 0 the kernel chooses the index. Only the near end of a pair can be created in the state "up".
    """

    name: str
    mac: bytes
    group: int = 0
    index: int = 0
    is_up: bool = False

    def header(self) -> bytes:
        """The end's ``struct ifinfomsg``."""
        return _link_header(self.index, _IFF_UP * self.is_up, _IFF_UP * self.is_up)

    def attributes(self, mtu: int) -> bytes:
        """The end's netlink attributes."""
        numbers = attribute(_IFLA_MTU, struct.pack("=I", mtu)) + attribute(_IFLA_GROUP, struct.pack("=I", self.group))
        return attribute(_IFLA_IFNAME, _text(self.name)) + attribute(_IFLA_ADDRESS, self.mac) + numbers


@dataclass(frozen=True)
class Change:
    """A message that changes the network; errors in ``ignore`` do not count."""

    step: str
    kind: int
    flags: int
    body: bytes
    ignore: tuple[int, ...] = ()


def attribute(kind: int, value: bytes) -> bytes:
    """One netlink attribute, padded."""
    return struct.pack("=HH", len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)


def attributes_of(data: bytes) -> dict[int, bytes]:
    """The attributes in ``data``, by kind."""
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        if size < 4:
            break
        found[kind & 0x3FFF] = data[4:size]
        data = data[(size + 3) & ~3 :]
    return found


def _link_header(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BBHiII", 0, 0, 0, index, flags, change)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


class NetlinkSocket:
    """A netlink socket of the calling thread's network namespace, with its two kinds of exchange: a request and a listing."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._sequence = 0
        self._was_interrupted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._socket.close()

    def send(self, kind: int, flags: int, body: bytes) -> None:
        """Send one message; its answers have its sequence number."""
        self.send_all([(kind, flags, body)])

    def send_all(self, messages: list[tuple[int, int, bytes]]) -> None:
        """Send several messages (kind, flags, body) at once; the kernel handles them in order."""
        packet = bytearray()
        for kind, flags, body in messages:
            self._sequence += 1
            padding = bytes(-len(body) % 4)
            packet += struct.pack("=IHHII", 16 + len(body), kind, flags, self._sequence, 0) + body + padding
        self._socket.send(packet)

    def messages(self, count: int = 1) -> Iterator[tuple[int, bytes]]:
        """The answers to the last ``count`` messages, as (type, payload), for as long as they come."""
        return ((kind, payload) for _, kind, payload in self._answers(count))

    def _answers(self, count: int) -> Iterator[tuple[int, int, bytes]]:
        """The answers to the last ``count`` messages, as (which of them, type, payload)."""
        first = self._sequence - count + 1
        while True:
            data = memoryview(self._socket.recv(1 << 18))
            while len(data) >= 16:
                size, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data)
                if first <= sequence <= self._sequence:
                    self._was_interrupted |= bool(flags & _DUMP_INTERRUPTED)
                    yield sequence - first, kind, bytes(data[16:size])
                data = data[(size + 3) & ~3 :]

    def request(self, step: str, kind: int, flags: int, body: bytes, ignore: tuple[int, ...] = ()) -> None:
        """Send a message that changes something and wait for its acknowledgement.

        Raises: IsolationError, but for the error numbers in ``ignore``.
        """
        self.apply(Change(step, kind, flags, body, ignore))

    def apply(self, *changes: Change) -> None:
        """Send all ``changes`` at once and wait until the last is done. One that fails does not stop those after it.

        Raises: IsolationError for the first that failed.
        """
        last = len(changes) - 1  # only this one is acknowledged; the others answer when they fail, and before it
        self.send_all([(c.kind, _REQUEST | c.flags | (_ACK if at == last else 0), c.body) for at, c in enumerate(changes)])
        failure: IsolationError | None = None
        for at, answer, payload in self._answers(len(changes)):
            number = error_of(payload) if answer == _ERROR else 0
            if number and number not in changes[at].ignore and failure is None:
                step = changes[at].step
                failure = IsolationError(f"{step}: {os.strerror(number)}", step=step, errno=number)
            if at == last and answer == _ERROR:
                break
        if failure is not None:
            raise failure

    def dump(self, step: str, kind: int, body: bytes) -> list[bytes]:
        """The payloads of a listing; listed again when it changed meanwhile, since something may be missing then.

        Raises: IsolationError.
        """
        for _ in range(_DUMP_TRIES):
            self._was_interrupted = False
            found = list(self._dump_once(step, kind, body))
            if not self._was_interrupted:
                return found
        raise IsolationError(f"{step}: it changes too fast to be listed", step=step, errno=errors.EAGAIN)

    def _dump_once(self, step: str, kind: int, body: bytes) -> Iterator[bytes]:
        self.send(kind, _REQUEST | _DUMP, body)
        for answer, payload in self.messages():
            if answer == _DONE:
                return
            if answer == _ERROR:
                number = error_of(payload)
                raise IsolationError(f"{step}: {os.strerror(number)}", step=step, errno=number)
            yield payload


class Netlink(NetlinkSocket):
    """A NETLINK_ROUTE socket of the calling thread's network namespace."""

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE)

    def links(self) -> dict[str, Link]:
        """Every interface of the namespace, by name."""
        return {link.name: link for link in map(_parse_link, self.dump("list interfaces", _GETLINK, _link_header()))}

    def link(self, name: str) -> Link | None:
        """The interface of that name, or None."""
        self.send(_GETLINK, _REQUEST, _link_header() + attribute(_IFLA_IFNAME, _text(name)))
        for answer, payload in self.messages():
            if answer == _NEWLINK:
                return _parse_link(payload)
            number = error_of(payload)
            if number in (errors.ENODEV, errors.ENOENT):
                return None
            raise IsolationError(f"look up interface {name}: {os.strerror(number)}", step="look up interface", errno=number)
        return None

    def add_veth(self, near: VethEnd, far: VethEnd, far_netns_fd: int, mtu: int) -> None:
        """See :func:`add_veth`."""
        self.apply(add_veth(near, far, far_netns_fd, mtu))

    def set_up(self, index: int, mtu: int | None = None) -> None:
        """See :func:`set_up`."""
        self.apply(set_up(index, mtu))

    def delete_link(self, name: str) -> bool:
        """Delete the interface, and a veth's other end with it; False if it does not exist."""
        found = self.link(name)
        if found is None:
            return False
        self.request(f"delete interface {name}", _DELLINK, 0, _link_header(found.index), (errors.ENODEV,))
        return True

    def delete_group(self, group: int) -> None:
        """See :func:`delete_group`."""
        self.apply(delete_group(group))

    def add_address(self, index: int, address: IPv4Address) -> None:
        """See :func:`add_address`."""
        self.apply(add_address(index, address))

    def set_route(self, destination: IPv4Network, index: int, gateway: IPv4Address | None = None) -> None:
        """See :func:`set_route`."""
        self.apply(set_route(destination, index, gateway))

    def set_neighbour(self, index: int, address: IPv4Address, mac: bytes) -> None:
        """See :func:`set_neighbour`."""
        self.apply(set_neighbour(index, address, mac))

    def routes(self) -> list[Route]:
        """Every IPv4 unicast route, of all tables."""
        body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
        found = [_parse_route(payload) for payload in self.dump("list routes", _GETROUTE, body)]
        return [route for route in found if route is not None]


def add_veth(near: VethEnd, far: VethEnd, far_netns_fd: int, mtu: int) -> Change:
    """Create a pair: ``near`` here, ``far`` directly in the other namespace. Fails with EEXIST if a name or index is taken."""
    peer = far.header() + far.attributes(mtu) + attribute(_IFLA_NET_NS_FD, struct.pack("=I", far_netns_fd))
    data = attribute(_INFO_DATA | NESTED, attribute(_VETH_PEER | NESTED, peer))
    info = attribute(_IFLA_LINKINFO | NESTED, attribute(_INFO_KIND, b"veth") + data)
    return Change(f"make veth pair {near.name}", _NEWLINK, _CREATE | _EXCLUSIVE, near.header() + near.attributes(mtu) + info)


def set_up(index: int, mtu: int | None = None) -> Change:
    """Bring the interface up and, if given, set its MTU."""
    size = b"" if mtu is None else attribute(_IFLA_MTU, struct.pack("=I", mtu))
    return Change("bring interface up", _NEWLINK, 0, _link_header(index, _IFF_UP, _IFF_UP) + size)


def set_group(name: str, group: int) -> Change:
    """Put the interface into ``group``, for :func:`delete_group`. Does nothing if there is no such interface."""
    body = _link_header() + attribute(_IFLA_IFNAME, _text(name)) + attribute(_IFLA_GROUP, struct.pack("=I", group))
    return Change(f"group interface {name}", _NEWLINK, 0, body, (errors.ENODEV,))


def delete_group(group: int) -> Change:
    """Delete all interfaces of the group together, which costs one RCU grace period (20 ms) instead of one each. Idempotent."""
    body = _link_header() + attribute(_IFLA_GROUP, struct.pack("=I", group))
    return Change(f"delete interfaces of group {group}", _DELLINK, 0, body, (errors.ENODEV,))


def add_address(index: int, address: IPv4Address) -> Change:
    """Give the interface ``address/32``. Idempotent."""
    body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, _SCOPE_GLOBAL, index)
    body += attribute(1, address.packed) + attribute(2, address.packed)
    return Change(f"add address {address}", _NEWADDR, _CREATE | _REPLACE, body)


def set_route(destination: IPv4Network, index: int, gateway: IPv4Address | None = None) -> Change:
    """Route ``destination`` by the interface, directly or by an on-link ``gateway``; replaces a route to the same destination."""
    scope, flags = (_SCOPE_LINK, 0) if gateway is None else (_SCOPE_GLOBAL, _ONLINK)
    prefix = destination.prefixlen
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, prefix, 0, 0, _TABLE_MAIN, _PROTO_STATIC, scope, _UNICAST, flags)
    if prefix:
        body += attribute(_RTA_DST, destination.network_address.packed)
    if gateway is not None:
        body += attribute(_RTA_GATEWAY, gateway.packed)
    body += attribute(_RTA_OIF, struct.pack("=I", index))
    return Change(f"route {destination}", _NEWROUTE, _CREATE | _REPLACE, body)


def set_neighbour(index: int, address: IPv4Address, mac: bytes) -> Change:
    """Set the neighbour's hardware address permanently.

    Permanent entries do not count against the limit of the kernel's neighbour table (gc_thresh3, 1024 by default), which all namespaces
    share.
    """
    body = struct.pack("=BBHiHBB", socket.AF_INET, 0, 0, index, _NUD_PERMANENT, 0, 0)
    body += attribute(1, address.packed) + attribute(2, mac)
    return Change(f"set neighbour {address}", _NEWNEIGH, _CREATE | _REPLACE, body)


def error_of(payload: bytes) -> int:
    """The error number in an NLMSG_ERROR, 0 for an acknowledgement."""
    return -int(struct.unpack_from("=i", payload)[0])


def settle_carrier(sock: socket.socket, name: str) -> None:
    """Make the kernel process the carrier of the interface now. The interface is in the socket's namespace.

    The end of a veth that came up first gets its carrier from a deferred job. Until then the kernel drops its packets, and a program that
    connects at once waits a second for the retransmission. An ethtool query of the link state runs that job.
    Source: ``linkwatch_sync_dev`` in net/core/link_watch.c, called from ``ethtool_op_get_link``.
    """
    value = array.array("I", [_ETHTOOL_GLINK, 0])
    request = struct.pack("=16sQ16x", name.encode(), value.buffer_info()[0])
    try:
        fcntl.ioctl(sock, _SIOCETHTOOL, request)
    except OSError as error:
        raise IsolationError(
            f"cannot ask for the link state of {name}: {error.strerror}", step="carrier", errno=error.errno or 0
        ) from error
    if not value[1]:
        raise IsolationError(f"interface {name} has no carrier", step="carrier")


def _parse_link(payload: bytes) -> Link:
    index = struct.unpack_from("=i", payload, 4)[0]
    found = attributes_of(payload[16:])
    mtu = struct.unpack("=I", found[_IFLA_MTU])[0] if _IFLA_MTU in found else 0
    peer = struct.unpack("=I", found[_IFLA_LINK])[0] if _IFLA_LINK in found else 0
    return Link(index, found[_IFLA_IFNAME].rstrip(b"\0").decode(), mtu, peer)


def _parse_route(payload: bytes) -> Route | None:
    _, prefix, _, _, table, _, scope, kind, _ = struct.unpack_from("=BBBBBBBBI", payload)
    if kind != _UNICAST:
        return None
    found = attributes_of(payload[12:])
    interfaces = [struct.unpack("=I", found[_RTA_OIF])[0]] if _RTA_OIF in found else []
    is_on_link = scope == _SCOPE_LINK or (_RTA_OIF in found and not _has_router(found))
    hops = found.get(_RTA_MULTIPATH, b"")
    while len(hops) >= 8:
        size, _, _, index = struct.unpack_from("=HBBi", hops)
        interfaces.append(index)
        is_on_link |= not _has_router(attributes_of(hops[8:size]))
        hops = hops[(size + 3) & ~3 :] if size >= 8 else b""
    number = struct.unpack("=I", found[_RTA_TABLE])[0] if _RTA_TABLE in found else table
    return Route(IPv4Network((found.get(_RTA_DST, bytes(4)), prefix)), number, tuple(interfaces), is_on_link)


def _has_router(hop: dict[int, bytes]) -> bool:
    return not hop.keys().isdisjoint((_RTA_GATEWAY, _RTA_VIA, _RTA_NH_ID))
