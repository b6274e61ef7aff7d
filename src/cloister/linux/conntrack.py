"""Connection tracking by ctnetlink: forget the connections of one source address.

Owns: that one act. Must not: flush more than it was asked to.
Why: an established TCP connection stays in the kernel's table for days after its sandbox has gone. It would count against the next sandbox
of that address, and a stream of short-lived sandboxes could fill the host's table with what nobody uses any more.
Connections are listed (filtered by the kernel) and deleted one by one: "delete by filter" is newer, and a kernel that does not know it
deletes all. Runs in: supervisor, on a thread of the namespace. Needs: CAP_NET_ADMIN there; Linux 5.8 for the filter.
Source: <linux/netfilter/nfnetlink_conntrack.h>, net/netfilter/nf_conntrack_netlink.c.
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address

from cloister.linux.netlink import NESTED, NetlinkSocket, attribute, attributes_of

__all__ = ["forget_connections"]

_NETLINK_NETFILTER = 12
_GET, _DELETE = 0x101, 0x102
_TUPLE_ORIG, _ID, _FILTER = 1, 12, 25
_TUPLE_IP, _IP_V4_SRC, _ORIG_FLAGS, _BY_SOURCE = 1, 1, 1, 1
_HEADER = struct.pack("=BBH", socket.AF_INET, 0, 0)


def forget_connections(source: IPv4Address) -> int:
    """Delete the tracked connections that ``source`` has opened, in the calling thread's namespace; returns how many there were.

    Raises: IsolationError.
    """
    address = attribute(_TUPLE_IP | NESTED, attribute(_IP_V4_SRC, source.packed))
    wanted = attribute(_FILTER | NESTED, attribute(_ORIG_FLAGS, struct.pack("=I", _BY_SOURCE)))
    netlink = NetlinkSocket(_NETLINK_NETFILTER)
    try:
        body = _HEADER + attribute(_TUPLE_ORIG | NESTED, address) + wanted
        found = [attributes_of(payload[4:]) for payload in netlink.dump("list connections", _GET, body)]
        for connection in found:
            key = attribute(_TUPLE_ORIG | NESTED, connection[_TUPLE_ORIG]) + attribute(_ID, connection[_ID])
            netlink.request("delete connection", _DELETE, 0, _HEADER + key, (errno.ENOENT,))
    finally:
        netlink.close()
    return len(found)
