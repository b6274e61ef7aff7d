"""The router of a server: the network namespace in which every sandbox's interface ends and where the whole egress policy lives.

Owns: the namespace (pinned by a bind mount), its ruleset, and the sandboxes' pairs. Must not: touch the host's namespace.
Invariant I8: which slots are in use is read from the kernel (interfaces and set elements), never remembered.
A dead instance's rules and pairs vanish with the namespace.
Runs in: supervisor; every method may be called from any thread, the work is done on the namespace's own thread.
Needs: CAP_SYS_ADMIN, CAP_NET_ADMIN over the host's and the sandboxes' namespaces.
"""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import IPv4Network
from pathlib import Path

from cloister.errors import IsolationError
from cloister.linux.conntrack import forget_connections
from cloister.linux.netlink import Netlink, VethEnd, settle_carrier
from cloister.linux.netns import NetnsThread, is_netns_pinned, open_netns, pin_new_netns, run_in_netns, write_sysctl
from cloister.linux.nftables import Nftables
from cloister.network.egress import ROUTER_TABLE, router_ruleset
from cloister.network.host_side import HOST_MAC, ROUTER_MAC
from cloister.network.plan import AddressPlan

__all__ = ["INSIDE", "Router"]

_SANDBOX_MAC = bytes.fromhex("02434c000003")
_DEFAULT = IPv4Network("0.0.0.0/0")
INSIDE = "eth0"
_DNS_BACKLOG = 128
_SANDBOX_GROUP = 0xC1
_PING_GROUPS = ("0 4294967294", "0 2147483647")


class Router:
    """One instance's router; made when it is not there, adopted when it is."""

    def __init__(self, plan: AddressPlan) -> None:
        self._plan = plan
        if not is_netns_pinned(plan.router_path):
            pin_new_netns(plan.router_path)
        self.netns_fd = open_netns(plan.router_path)
        self._thread = NetnsThread(self.netns_fd, f"router{plan.instance}")
        self._netlink = self._thread.call(Netlink)
        self._nft = self._thread.call(Nftables)

    def close(self) -> None:
        """End the thread and close the descriptors; kernel objects stay."""
        self._thread.close()
        self._nft.close()
        self._netlink.close()
        os.close(self.netns_fd)

    def set_up(self) -> None:
        """Settings, ruleset and gateway address: new or again. Sandboxes that are attached stay attached."""
        self._thread.call(self._set_up)

    def _set_up(self) -> None:
        has_ipv6 = Path("/proc/sys/net/ipv6").exists()
        for scope in ("all", "default") if has_ipv6 else ():
            write_sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", "1")
        self._nft.run(router_ruleset(self._plan.rules()))
        for scope in ("all", "default"):
            for name, value in (("rp_filter", "1"), ("send_redirects", "0"), ("accept_redirects", "0"), ("route_localnet", "0")):
                write_sysctl(f"net/ipv4/conf/{scope}/{name}", value)
        write_sysctl("net/ipv4/ip_forward", "1")
        loopback = self._netlink.links()["lo"]
        self._netlink.set_up(loopback.index)
        self._netlink.add_address(loopback.index, self._plan.gateway)

    def has_uplink(self) -> bool:
        """Whether the router's end of the uplink exists."""
        return self._thread.call(lambda: self._netlink.link(self._plan.router_interface)) is not None

    def add_uplink(self, host_netns_fd: int, mtu: int) -> None:
        """Make the uplink pair, one end here and one in the host's namespace."""
        near, far = VethEnd(self._plan.router_interface, ROUTER_MAC), VethEnd(self._plan.host_interface, HOST_MAC)
        self._thread.call(lambda: self._netlink.add_veth(near, far, host_netns_fd, mtu))

    def bring_uplink_up(self, mtu: int) -> None:
        """Address and default route of the router's end."""

        def body() -> None:
            link = self._netlink.links()[self._plan.router_interface]
            self._netlink.set_up(link.index, mtu)
            self._netlink.add_address(link.index, self._plan.router_uplink)
            self._netlink.set_neighbour(link.index, self._plan.host_uplink, HOST_MAC)
            self._netlink.set_route(_DEFAULT, link.index, self._plan.host_uplink)

        self._thread.call(body)

    def settle_uplink(self) -> None:
        """To be called when the other end is up as well: see :func:`settle_carrier`."""

        def body() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                settle_carrier(sock, self._plan.router_interface)

        self._thread.call(body)

    def drop_stale_elements(self) -> None:
        """Take out of the sets what has no interface any more (left by a sandbox whose namespace died)."""

        def body() -> None:
            links = self._netlink.links()
            stale = [slot for slot in self._slots_in_sets() if self._plan.interface(slot) not in links]
            for slot in stale:
                self._forget(slot)

        self._thread.call(body)

    def attach(self, slot: int, netns_fd: int, mtu: int, *, online: bool) -> None:
        """Join the sandbox's namespace to the router and configure it inside; the sets come last, so nothing passes before all is done."""
        name = self._plan.interface(slot)
        existing = self._thread.call(lambda: self._netlink.link(name))
        index = existing.index if existing else 0
        is_joined = index != 0 and run_in_netns(netns_fd, lambda: _is_joined(index))
        if index and not is_joined:
            self.release(slot)
        inside = run_in_netns(netns_fd, lambda: self._configure_inside(slot, None if is_joined else mtu))
        with inside:
            self._thread.call(lambda: self._admit(slot, inside, online=online))

    def _configure_inside(self, slot: int, new_mtu: int | None) -> socket.socket:
        """Make the pair when it is new, configure the sandbox's end, and return a socket of its namespace (the caller closes it)."""
        has_ipv6 = Path("/proc/sys/net/ipv6").exists()
        with Netlink() as netlink:
            if has_ipv6:
                write_sysctl("net/ipv6/conf/default/disable_ipv6", "1")
            if new_mtu is not None:
                near, far = VethEnd(INSIDE, _SANDBOX_MAC), VethEnd(self._plan.interface(slot), ROUTER_MAC, _SANDBOX_GROUP)
                netlink.add_veth(near, far, self.netns_fd, new_mtu)
            if has_ipv6:
                write_sysctl(f"net/ipv6/conf/{INSIDE}/disable_ipv6", "1")
            write_sysctl("net/ipv4/ip_unprivileged_port_start", "0")
            _open_ping_groups()
            links = netlink.links()
            netlink.set_up(links["lo"].index)
            index = links[INSIDE].index
            netlink.set_up(index)
            netlink.add_address(index, self._plan.address(slot))
            netlink.set_neighbour(index, self._plan.gateway, ROUTER_MAC)
            netlink.set_route(_DEFAULT, index, self._plan.gateway)
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def _admit(self, slot: int, inside: socket.socket, *, online: bool) -> None:
        address = self._plan.address(slot)
        link = self._netlink.link(self._plan.interface(slot))
        if link is None:
            raise IsolationError(f"the interface of slot {slot} vanished", step="attach", errno=errno.ENODEV)
        self._netlink.set_up(link.index)
        settle_carrier(inside, INSIDE)
        self._netlink.set_neighbour(link.index, address, _SANDBOX_MAC)
        self._netlink.set_route(IPv4Network(address), link.index)
        self._nft.run(f"add element inet {ROUTER_TABLE} sandboxes {{ {self._plan.element(slot)} }}\n{self._online(slot, online=online)}")

    def _online(self, slot: int, *, online: bool) -> str:
        add = f"add element inet {ROUTER_TABLE} online {{ {self._plan.element(slot)} }}"
        return add if online else f"{add}\ndelete element inet {ROUTER_TABLE} online {{ {self._plan.element(slot)} }}"

    def set_online(self, slot: int, *, online: bool) -> None:
        """Give or take the internet, established connections included."""

        def body() -> None:
            if self._netlink.link(self._plan.interface(slot)) is None:
                raise IsolationError(f"network slot {slot} is not attached", step="set internet")
            self._nft.run(self._online(slot, online=online))

        self._thread.call(body)

    def release(self, slot: int) -> bool:
        """Take the sandbox out of the sets, delete its pair and forget its connections; whether it had any. Idempotent.

        The kernel looks through its whole table (10 ms) for them, so that is left out for a sandbox that ``flows`` has never seen.
        """

        def body() -> bool:
            address = self._plan.address(slot)
            self._forget(slot)
            self._netlink.delete_link(self._plan.interface(slot))
            had_connections = self._nft.delete_element("inet", ROUTER_TABLE, "flows", str(address))
            if had_connections:
                forget_connections(address)
            return had_connections

        return self._thread.call(body)

    def _forget(self, slot: int) -> None:
        element = self._plan.element(slot)
        lines = [
            f"{verb} element inet {ROUTER_TABLE} {name} {{ {element} }}" for name in ("sandboxes", "online") for verb in ("add", "delete")
        ]
        self._nft.run("\n".join(lines))

    def _slots_in_sets(self) -> set[int]:
        found: set[int] = set()
        for name in ("sandboxes", "online"):
            slots = (self._plan.slot_of(interface) for interface, _ in self._nft.elements("inet", ROUTER_TABLE, name))
            found.update(slot for slot in slots if slot is not None)
        return found

    def slots_in_use(self) -> set[int]:
        """Slots that have an interface or a set element."""

        def body() -> set[int]:
            linked = (self._plan.slot_of(name) for name in self._netlink.links())
            return {slot for slot in linked if slot is not None} | self._slots_in_sets()

        return self._thread.call(body)

    def dns_sockets(self) -> tuple[socket.socket, socket.socket]:
        """A UDP and a listening TCP socket on the gateway's port 53; the caller owns them."""
        return self._thread.call(self._dns_sockets)

    def _dns_sockets(self) -> tuple[socket.socket, socket.socket]:
        udp, tcp = (socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
        try:
            for sock in (udp, tcp):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.bind((str(self._plan.gateway), 53))
            tcp.listen(_DNS_BACKLOG)
        except OSError:
            udp.close()
            tcp.close()
            raise
        return udp, tcp

    def counters(self) -> dict[str, int]:
        """Packets that each rule with a comment has seen, by that comment."""
        return self._thread.call(lambda: self._nft.counters("inet", ROUTER_TABLE))

    def survey(self) -> list[str]:
        """What exists in the router's namespace, beyond its loopback."""
        names = self._thread.call(self._netlink.links)
        return [f"router interface {name}" for name in names if name != "lo"]

    def empty(self) -> None:
        """Delete every pair and the ruleset, so that a namespace which somebody still holds (a socket, a mount) leads nowhere."""

        def body() -> None:
            self._netlink.delete_group(_SANDBOX_GROUP)
            for name in self._netlink.links():
                if name != "lo":
                    self._netlink.delete_link(name)
            self._nft.run(f"add table inet {ROUTER_TABLE}\ndelete table inet {ROUTER_TABLE}")

        self._thread.call(body)


def _is_joined(router_index: int) -> bool:
    """Whether the calling thread's namespace holds the other end of the router's interface of that index."""
    with Netlink() as netlink:
        inside = netlink.link(INSIDE)
    return inside is not None and inside.peer_index == router_index


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
