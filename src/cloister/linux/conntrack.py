"""Deletes the tracked connections of one source address, by ctnetlink. Must not delete any other connection.

Why: an established TCP connection stays in the kernel's table for days after its sandbox ended. It would count against the next sandbox
with that address, and many short-lived sandboxes could fill the host's table with dead connections.
The kernel lists the matching connections, and this module deletes them one by one. "Delete by filter" is newer, and a kernel without it
deletes all connections.
Runs in: supervisor, on a thread of the namespace. Needs: CAP_NET_ADMIN there; Linux 5.8 for the filter.
Source: <linux/netfilter/nfnetlink_conntrack.h>, net/netfilter/nf_conntrack_netlink.c.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple

from cloister.linux.netlink import NESTED, NetlinkSocket, attribute, attributes_of

__all__ = ["TrackedConnection", "forget_connections", "parse_connection", "parse_source"]

_NETLINK_NETFILTER = 12
_GET, _DELETE = 0x101, 0x102
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _FILTER = 1, 2, 12, 25
_TUPLE_IP, _TUPLE_PROTO, _IP_V4_SRC, _IP_V4_DST, _ORIG_FLAGS, _BY_SOURCE = 1, 2, 1, 2, 1, 1
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_HEADER = struct.pack("=BBH", socket.AF_INET, 0, 0)


@dataclass(frozen=True)
class TrackedConnection:
    """A connection in the kernel's table, as its opener sees it and as it is answered after address translation."""

    protocol: int
    destination: IPv4Address
    port: int
    """0 if the protocol has no ports."""
    answered_by: IPv4Address
    answered_from: int
    """The port that answers come from; 0 if the protocol has no ports."""


def forget_connections(source: IPv4Address, chosen: Callable[[TrackedConnection], bool] | None = None) -> int:
    """Delete the tracked connections that ``source`` opened, in the calling thread's namespace; returns their number.

    ``chosen`` returns whether to delete one; None: all. Raises: IsolationError.
    """
    address = attribute(_TUPLE_IP | NESTED, attribute(_IP_V4_SRC, source.packed))
    wanted = attribute(_FILTER | NESTED, attribute(_ORIG_FLAGS, struct.pack("=I", _BY_SOURCE)))
    netlink = NetlinkSocket(_NETLINK_NETFILTER)
    try:
        body = _HEADER + attribute(_TUPLE_ORIG | NESTED, address) + wanted
        found = [attributes_of(payload[4:]) for payload in netlink.dump("list connections", _GET, body)]
        if chosen is not None:
            found = [connection for connection in found if chosen(parse_connection(connection))]
        for connection in found:
            key = attribute(_TUPLE_ORIG | NESTED, connection[_TUPLE_ORIG]) + attribute(_ID, connection[_ID])
            netlink.request("delete connection", _DELETE, 0, _HEADER + key, (errno.ENOENT,))
    finally:
        netlink.close()
    return len(found)


def parse_connection(attributes: dict[int, bytes]) -> TrackedConnection:
    """The connection of a ctnetlink message of family AF_INET."""
    asked, answered = _parse_tuple(attributes[_TUPLE_ORIG]), _parse_tuple(attributes[_TUPLE_REPLY])
    return TrackedConnection(asked.protocol, asked.destination, asked.to_port, answered.source, answered.from_port)


def parse_source(attributes: dict[int, bytes]) -> IPv4Address:
    """The opener of the connection of a ctnetlink message of family AF_INET."""
    return _parse_tuple(attributes[_TUPLE_ORIG]).source


class _Tuple(NamedTuple):
    source: IPv4Address
    destination: IPv4Address
    protocol: int
    from_port: int
    to_port: int


def _parse_tuple(data: bytes) -> _Tuple:
    parts = attributes_of(data)
    addresses, protocol = attributes_of(parts[_TUPLE_IP]), attributes_of(parts[_TUPLE_PROTO])
    ports = [int.from_bytes(protocol.get(kind, b""), "big") for kind in (_PROTO_SRC_PORT, _PROTO_DST_PORT)]
    source, destination = (IPv4Address(addresses[kind]) for kind in (_IP_V4_SRC, _IP_V4_DST))
    return _Tuple(source, destination, protocol[_PROTO_NUM][0], *ports)
