"""The router of a server: the network namespace in which every sandbox's interface ends and where the whole egress policy lives.

Owns: the namespace (pinned by a bind mount), its ruleset, and the sandboxes' pairs. Must not: touch the host's namespace.
Invariant I8: which slots are in use is read from the kernel (interfaces and set elements), never remembered.
A dead instance's rules and pairs vanish with the namespace.
Runs in: supervisor; every method may be called from any thread, the work is done on the namespace's own thread.
Needs: CAP_SYS_ADMIN, CAP_NET_ADMIN over the host's and the sandboxes' namespaces.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from cloister.errors import IsolationError
from cloister.linux.conntrack import forget_connections
from cloister.linux.netlink import Netlink, VethEnd, delete_group, set_group, settle_carrier
from cloister.linux.netns import NetnsThread, is_netns_pinned, open_netns, pin_new_netns, run_in_netns, write_sysctl
from cloister.linux.nftables import Nftables
from cloister.linux.nftsets import ElementSocket
from cloister.network.egress import ROUTER_TABLE, router_ruleset
from cloister.network.host_side import HOST_MAC, ROUTER_MAC
from cloister.network.plan import AddressPlan
from cloister.network.porter import INSIDE, SANDBOX_GROUP, Porter
from cloister.network.refusals import Refusal, RefusalSets

__all__ = ["INSIDE", "Router"]

_DEFAULT = IPv4Network("0.0.0.0/0")
_DNS_BACKLOG = 128
_DYING_GROUP = 0xC2


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
        self._elements = self._thread.call(ElementSocket)
        self._porter = Porter(self._plan, self.netns_fd)
        self._reaping = self._thread.call(Netlink)
        self._reaping_lock = threading.Lock()
        self._refusals = RefusalSets(self._nft, ROUTER_TABLE, plan.slot_of)

    def close(self) -> None:
        """End the threads and close the descriptors; kernel objects stay."""
        self._porter.close()
        self._thread.close()
        self._nft.close()
        for opened in (self._netlink, self._elements, self._reaping):
            opened.close()
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
                self.shut_out(slot)

        self._thread.call(body)

    def join(self, slot: int, netns_fd: int, mtu: int) -> None:
        """Join the sandbox's namespace to the router. Raises: IsolationError; its errno is EEXIST when there is a pair of this slot."""
        self._porter.join(slot, netns_fd, mtu)

    def repair(self, slot: int, netns_fd: int) -> bool:
        """Configure the slot's pair again if there is one and it joins this namespace; whether it does."""
        existing = self._thread.call(lambda: self._netlink.link(self._plan.interface(slot)))
        index = existing.index if existing else 0
        if not index or not run_in_netns(netns_fd, lambda: _is_joined(index)):
            return False
        self._porter.repair(slot, netns_fd, index)
        return True

    def admit(self, slot: int, *, online: bool) -> None:
        """Let the sandbox speak, with or without the internet. The last step: until here nothing of it passes."""
        elements = [self._plan.element(name, slot) for name in ("sandboxes", "online")]
        self._elements.change(add=elements, delete=() if online else elements[1:])

    def set_online(self, slot: int, *, online: bool) -> None:
        """Give or take the internet, established connections included."""

        def body() -> None:
            if self._netlink.link(self._plan.interface(slot)) is None:
                raise IsolationError(f"network slot {slot} is not attached", step="set internet")
            element = self._plan.element("online", slot)
            self._elements.change(add=[element], delete=[] if online else [element])

        self._thread.call(body)

    def release(self, slot: int) -> bool:
        """Take the sandbox out of the sets, delete its pair and forget its connections; whether it had any. Idempotent.

        The kernel looks through its whole table (10 ms) for them, so that is left out for a sandbox that ``flows`` has never seen.
        """
        self.shut_out(slot)
        self._thread.call(lambda: self._netlink.delete_link(self._plan.interface(slot)))
        return self.forget(slot)

    def shut_out(self, slot: int) -> None:
        """Take the sandbox out of the sets: no packet of it passes from here on."""
        self._elements.change(delete=[self._plan.element(name, slot) for name in ("sandboxes", "online")])

    def delete_pairs(self, slots: Sequence[int]) -> None:
        """Delete the pairs of several slots by one wait for the kernel's readers. Idempotent."""
        changes = [set_group(self._plan.interface(slot), _DYING_GROUP) for slot in slots]
        with self._reaping_lock:
            self._reaping.apply(*changes, delete_group(_DYING_GROUP))

    def forget(self, slot: int) -> bool:
        """Forget the connections of a slot that has no interface any more; whether it had any."""
        seen = self._plan.flow(slot)
        if not self._elements.has(seen):
            return False
        self._elements.change(delete=[seen])
        run_in_netns(self.netns_fd, lambda: forget_connections(self._plan.address(slot)))
        return True

    def slots_with_flows(self) -> set[int]:
        """Slots whose address has had connections since it was last released."""
        base = int(self._plan.cidr.network_address)
        found = self._thread.call(lambda: self._nft.elements("inet", ROUTER_TABLE, "flows"))
        return {int(IPv4Address(address)) - base for address in found}

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

    def take_refusals(self) -> list[Refusal]:
        """What was refused since the last call."""
        return self._thread.call(self._refusals.take)

    def forget_refusals(self, slots: Collection[int]) -> None:
        """Forget what was refused to slots that have no interface any more."""
        self._thread.call(lambda: self._refusals.forget([self._plan.interface(slot) for slot in slots]))

    def forget_strangers(self) -> None:
        """Forget what was refused to those that have no interface (left by an earlier server's sandboxes)."""
        self._thread.call(lambda: self._refusals.forget(self._refusals.sources() - self._netlink.links().keys()))

    def survey(self) -> list[str]:
        """What exists in the router's namespace, beyond its loopback."""
        names = self._thread.call(self._netlink.links)
        return [f"router interface {name}" for name in names if name != "lo"]

    def empty(self) -> None:
        """Delete every pair and the ruleset, so that a namespace which somebody still holds (a socket, a mount) leads nowhere."""

        def body() -> None:
            for group in (_DYING_GROUP, SANDBOX_GROUP):
                self._netlink.delete_group(group)
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
