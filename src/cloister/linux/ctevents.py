"""Ends of tracked connections, as the kernel tells them by ctnetlink.

Owns the socket. The kernel holds events until they are read, within the socket's bound, and counts those beyond it. Must not know
sandboxes. Invariant: an :class:`EndedConnections` belongs to the network namespace in which it was created, whichever thread reads it. Not
thread-safe.
Runs in: supervisor. Needs: CAP_NET_ADMIN in the network namespace, for the bound and the settings.
Source: <linux/netfilter/nfnetlink_conntrack.h>, net/netfilter/nf_conntrack_netlink.c, netlink(7), ``SO_MEMINFO`` in net/core/sock.c.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from cloister.linux.conntrack import TrackedConnection, parse_connection, parse_source
from cloister.linux.netlink import attributes_of
from cloister.linux.netns import write_sysctl

__all__ = ["Ended", "EndedConnections", "record_ends"]

_NETLINK_NETFILTER, _SOL_NETLINK = 12, 270
_ADD_MEMBERSHIP, _NO_ENOBUFS = 1, 5
_DESTROY_GROUP = 3
_DELETE = 0x102
_COUNTERS_SENT, _COUNTERS_RECEIVED, _TIMESTAMP = 9, 10, 20
_BYTES, _START, _STOP = 2, 1, 2
_SO_RCVBUFFORCE, _SO_MEMINFO = 33, 55
_DROPS = 8
"""Index of a socket's dropped messages in the array that ``SO_MEMINFO`` gives."""
_BUFFER_BYTES = 16 << 20
"""About 12,000 events."""


@dataclass(frozen=True)
class Ended:
    """A connection that is over, or that the kernel forgot."""

    source: IPv4Address
    connection: TrackedConnection
    began_at: float
    """Seconds since the epoch."""
    ended_at: float
    sent_bytes: int
    """By its opener, with the headers of packets."""
    received_bytes: int


def record_ends() -> None:
    """Let the kernel note times and bytes of new connections in the calling thread's network namespace. Raises: IsolationError."""
    for name in ("acct", "timestamp", "events"):
        write_sysctl(f"net/netfilter/nf_conntrack_{name}", "1")


class EndedConnections:
    """A socket that gets the IPv4 connections that end in the network namespace of the thread that creates it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _DESTROY_GROUP)
        self._dropped = 0

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._socket.close()

    def read(self, most: int) -> list[Ended]:
        """The next events, at most about ``most`` of them. Never blocks."""
        found: list[Ended] = []
        while len(found) < most:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            while len(data) >= 16:
                size, kind = struct.unpack_from("=IH", data)
                if kind == _DELETE and data[16] == socket.AF_INET:
                    found.append(_parse(attributes_of(data[20:size])))
                data = data[max(16, (size + 3) & ~3) :]
        return found

    def take_lost(self) -> int:
        """How many events were dropped since the last call, because they were not read in time."""
        dropped = int(struct.unpack_from("=9I", self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36))[_DROPS])
        lost, self._dropped = (dropped - self._dropped) & 0xFFFFFFFF, dropped
        return lost


def _parse(attributes: dict[int, bytes]) -> Ended:
    times = attributes_of(attributes.get(_TIMESTAMP, b""))
    began, ended = (int.from_bytes(times.get(kind, b""), "big") / 1e9 for kind in (_START, _STOP))
    sent, received = (
        int.from_bytes(attributes_of(attributes.get(kind, b"")).get(_BYTES, b""), "big") for kind in (_COUNTERS_SENT, _COUNTERS_RECEIVED)
    )
    return Ended(parse_source(attributes), parse_connection(attributes), began, ended, sent, received)
