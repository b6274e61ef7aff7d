"""The veth pairs that join sandboxes' network namespaces to the router's.

Owns: each pair, the settings of both ends, and the one thread that enters sandboxes' namespaces. Must not: decide which packets pass (the
router's sets do). All numbers are known beforehand, interface indexes too: a new pair takes two netlink packets and no lookup.
Invariant I4: no packet passes a pair until the router has the sandbox in its sets.
Runs in: supervisor; any thread may call, and the work is done on a thread of its own.
Needs: CAP_SYS_ADMIN, CAP_NET_ADMIN over the router's and the sandboxes' namespaces.
"""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Network
from pathlib import Path

from cloister.errors import IsolationError
from cloister.linux.netlink import Change, Netlink, VethEnd, add_address, add_veth, set_neighbour, set_route, set_up, settle_carrier
from cloister.linux.netns import NetnsThread, write_sysctl
from cloister.network.host_side import ROUTER_MAC
from cloister.network.plan import AddressPlan

__all__ = ["INSIDE", "SANDBOX_GROUP", "VethPairs"]

INSIDE = "eth0"
SANDBOX_GROUP = 0xC1
_SANDBOX_MAC = bytes.fromhex("02434c000003")
_DEFAULT = IPv4Network("0.0.0.0/0")
_LOOPBACK_INDEX = 1
_INSIDE_INDEX = 0xC1
_FIRST_INDEX = 0x10000
_PING_GROUPS = ("0 4294967294", "0 2147483647")


class VethPairs:
    """Makes pairs one at a time: the kernel has one lock for all interfaces anyway. Thread-safe."""

    def __init__(self, plan: AddressPlan, router_fd: int) -> None:
        """``router_fd`` stays the caller's and open."""
        self._plan = plan
        self._has_ipv6 = Path("/proc/sys/net/ipv6").exists()
        self._thread = NetnsThread(router_fd, f"veth{plan.instance}")
        self._netlink = self._thread.call(Netlink)
        self._socket = self._thread.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    def close(self) -> None:
        """End the thread; kernel objects stay."""
        self._thread.close()
        self._netlink.close()
        self._socket.close()

    def join(self, slot: int, netns_fd: int, mtu: int) -> None:
        """Make the pair and configure both ends. Raises: IsolationError, with errno EEXIST when there is a pair of this slot already."""
        index = _FIRST_INDEX + slot
        near = VethEnd(self._plan.interface(slot), ROUTER_MAC, SANDBOX_GROUP, index=index, is_up=True)
        far = VethEnd(INSIDE, _SANDBOX_MAC, index=_INSIDE_INDEX)
        pair = add_veth(near, far, netns_fd, mtu)
        self._thread.call(lambda: self._configure(slot, netns_fd, _INSIDE_INDEX, index, pair))

    def repair(self, slot: int, netns_fd: int, index: int, *, has_own_stack: bool = False) -> None:
        """Configure both ends again of a pair whose router end has this index; with ``has_own_stack`` the router's end alone."""

        def body() -> None:
            if has_own_stack:
                self._netlink.apply(*self._at_router(slot, index, None))
                return
            with self._thread.visit(netns_fd), Netlink() as netlink:
                inside = netlink.links()[INSIDE].index
            self._configure(slot, netns_fd, inside, index, None)

        self._thread.call(body)

    def _at_router(self, slot: int, index: int, pair: Change | None) -> list[Change]:
        address = self._plan.address(slot)
        return [
            set_up(index) if pair is None else pair,
            set_neighbour(index, address, _SANDBOX_MAC),
            set_route(IPv4Network(address), index),
        ]

    def _configure(self, slot: int, netns_fd: int, inside: int, index: int, pair: Change | None) -> None:
        address = self._plan.address(slot)
        at_router = self._at_router(slot, index, pair)
        at_sandbox = [
            set_up(_LOOPBACK_INDEX),
            set_up(inside),
            add_address(inside, address),
            set_neighbour(inside, self._plan.gateway, ROUTER_MAC),
            set_route(_DEFAULT, inside, self._plan.gateway),
        ]
        with self._thread.visit(netns_fd), Netlink() as netlink:
            if self._has_ipv6:
                write_sysctl("net/ipv6/conf/default/disable_ipv6", "1")  # what a new interface begins with
            self._netlink.apply(*at_router)
            if pair is None and self._has_ipv6:
                write_sysctl(f"net/ipv6/conf/{INSIDE}/disable_ipv6", "1")
            netlink.apply(*at_sandbox)
            write_sysctl("net/ipv4/ip_unprivileged_port_start", "0")
            _open_ping_groups()
            if pair is None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    settle_carrier(sock, INSIDE)
        settle_carrier(self._socket, self._plan.interface(slot))  # of a new pair this end was up first


def _open_ping_groups() -> None:
    """Let every group of the sandbox use ICMP echo sockets (``ping`` without privileges).

    The file takes *host* group ids here, because the writer is in the host's user namespace. Kernels before 5.18 or so end the range at
    2**31 - 1; there the sandboxes of instances 4 to 6, whose ids lie above it, ping as their root only.
    """
    try:
        write_sysctl("net/ipv4/ping_group_range", _PING_GROUPS[0])
    except IsolationError as error:
        if error.errno != errno.EINVAL:
            raise
        write_sysctl("net/ipv4/ping_group_range", _PING_GROUPS[1])
