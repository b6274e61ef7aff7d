"""The router of a server: a network namespace where all sandboxes' veth pairs end and where the egress policy is applied.

Owns: the namespace (pinned by a bind mount), its ruleset, and the sandboxes' pairs. Must not: touch the host's namespace.
Invariant I8: the slots in use are read from the kernel (interfaces and set elements), never from memory.
Rules and pairs end with the namespace.
Runs in: supervisor; any thread may call, and the work is done on the namespace's own thread.
Needs: CAP_SYS_ADMIN, CAP_NET_ADMIN over the host's and the sandboxes' namespaces.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Collection, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from cloister.errors import IsolationError
from cloister.linux.conntrack import TrackedConnection, forget_connections
from cloister.linux.ctevents import EndedConnections, record_ends
from cloister.linux.netlink import Netlink, VethEnd, delete_group, set_group, settle_carrier
from cloister.linux.netns import NetnsThread, is_netns_pinned, open_netns, pin_new_netns, run_in_netns, write_sysctl
from cloister.linux.nftables import Nftables
from cloister.linux.nftsets import ElementSocket, interface_of
from cloister.model.network import EgressPolicy
from cloister.model.team_traffic import TeamTraffic
from cloister.network.egress import ROUTER_TABLE, host_networks_change, router_ruleset
from cloister.network.host_side import HOST_MAC, ROUTER_MAC
from cloister.network.plan import AddressPlan
from cloister.network.policy_rules import policy_rules
from cloister.network.refusals import Refusal, RefusalSets
from cloister.network.slot_rules import SlotRules
from cloister.network.team_rules import TeamRules
from cloister.network.veth_pairs import INSIDE, SANDBOX_GROUP, VethPairs

__all__ = ["INSIDE", "Router"]

_DEFAULT = IPv4Network("0.0.0.0/0")
_DNS_BACKLOG = 128
_DYING_GROUP = 0xC2
_BIND_ADDRESS_NO_PORT = 24
"""``IP_BIND_ADDRESS_NO_PORT`` of linux/in.h: the port is chosen at connect, so that sandboxes share no range of ports."""


class Router:
    """One instance's router; made, or adopted if it exists."""

    def __init__(self, plan: AddressPlan) -> None:
        self._plan = plan
        if not is_netns_pinned(plan.router_path):
            pin_new_netns(plan.router_path)
        self.netns_fd = open_netns(plan.router_path)
        self._thread = NetnsThread(self.netns_fd, f"router{plan.instance}")
        self._netlink = self._thread.call(Netlink)
        self._nft = self._thread.call(Nftables)
        self._elements = self._thread.call(ElementSocket)
        self._own = SlotRules(self._elements, plan)
        self._teams = TeamRules(self._elements, plan)
        self._pairs = VethPairs(self._plan, self.netns_fd)
        self._reaping = self._thread.call(Netlink)
        self.ended = self._thread.call(EndedConnections)
        self._reaping_lock = threading.Lock()
        self._refusals = RefusalSets(self._elements, ROUTER_TABLE, 16, plan.slot_of)

    def close(self) -> None:
        """End the threads and close the descriptors; kernel objects stay."""
        self._pairs.close()
        self._thread.close()
        self._nft.close()
        for opened in (self._netlink, self._elements, self._reaping, self.ended):
            opened.close()
        os.close(self.netns_fd)

    def set_up(self) -> None:
        """Apply sysctls, ruleset and gateway address. Attached sandboxes stay attached."""
        self._thread.call(self._set_up)

    def _set_up(self) -> None:
        has_ipv6 = Path("/proc/sys/net/ipv6").exists()
        for scope in ("all", "default") if has_ipv6 else ():
            write_sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", "1")
        record_ends()
        self._nft.run(router_ruleset(self._plan.rules()))
        self._teams.load()
        for scope in ("all", "default"):
            for name, value in (("rp_filter", "1"), ("send_redirects", "0"), ("accept_redirects", "0"), ("route_localnet", "0")):
                write_sysctl(f"net/ipv4/conf/{scope}/{name}", value)
        write_sysctl("net/ipv4/ip_forward", "1")
        loopback = self._netlink.links()["lo"]
        self._netlink.set_up(loopback.index)
        self._netlink.add_address(loopback.index, self._plan.gateway)
        self._netlink.add_address(loopback.index, self._plan.caller)

    def refuse_networks(self, networks: list[IPv4Network]) -> None:
        """Replace the list of the host's own networks, which sandboxes may not reach."""
        self._elements.change(also=host_networks_change(ROUTER_TABLE, networks))

    def has_uplink(self) -> bool:
        """Whether the router's end of the uplink exists."""
        return self._thread.call(lambda: self._netlink.link(self._plan.router_interface)) is not None

    def add_uplink(self, host_netns_fd: int, mtu: int) -> None:
        """Make the uplink pair, one end here and one in the host's namespace."""
        near, far = VethEnd(self._plan.router_interface, ROUTER_MAC), VethEnd(self._plan.host_interface, HOST_MAC)
        self._thread.call(lambda: self._netlink.add_veth(near, far, host_netns_fd, mtu))

    def bring_uplink_up(self, mtu: int) -> None:
        """Configure the router's end: address and default route."""

        def body() -> None:
            link = self._netlink.links()[self._plan.router_interface]
            self._netlink.set_up(link.index, mtu)
            self._netlink.add_address(link.index, self._plan.router_uplink)
            self._netlink.set_neighbour(link.index, self._plan.host_uplink, HOST_MAC)
            self._netlink.set_route(_DEFAULT, link.index, self._plan.host_uplink)

        self._thread.call(body)

    def settle_uplink(self) -> None:
        """Call this when the other end is up too: see :func:`settle_carrier`."""

        def body() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                settle_carrier(sock, self._plan.router_interface)

        self._thread.call(body)

    def drop_stale_elements(self) -> None:
        """Remove set elements without an interface, left by sandboxes whose namespace ended."""

        def body() -> None:
            links = self._netlink.links()
            stale = [slot for slot in self._slots_in_sets() if self._plan.interface(slot) not in links]
            for slot in stale:
                self.shut_out(slot)

        self._thread.call(body)

    def join(self, slot: int, netns_fd: int, mtu: int) -> None:
        """Join the sandbox's namespace to the router. Raises: IsolationError; errno EEXIST: the slot has a pair."""
        self._pairs.join(slot, netns_fd, mtu)

    def repair(self, slot: int, netns_fd: int, *, has_own_stack: bool = False) -> bool:
        """Configure the slot's pair again; False if there is none, or if it joins another namespace.

        ``has_own_stack``: only the router's end. With the address at the other end the namespace would answer in place of the sandbox.
        """
        existing = self._thread.call(lambda: self._netlink.link(self._plan.interface(slot)))
        index = existing.index if existing else 0
        if not index or not run_in_netns(netns_fd, lambda: _is_joined(index)):
            return False
        self._pairs.repair(slot, netns_fd, index, has_own_stack=has_own_stack)
        return True

    def admit(self, slot: int, policy: EgressPolicy, *, is_new: bool, team_id: str = "") -> None:
        """Let the sandbox's packets pass, as far as its egress policy allows. The last step of an attachment: until here none passes.

        ``is_new``: the pair was just made, so the slot has no rules of its own yet.
        """
        rules = policy_rules(policy)
        own = [] if is_new and rules.is_empty else self._own.replacement(slot, rules)
        elements = [self._plan.element(name, slot) for name in ("sandboxes", "online")]
        with self._teams.joining(slot, team_id) as bounds:
            self._elements.change(add=elements, delete=elements[1:] if policy.is_closed else (), also=[*own, *bounds])

    def join_team(self, slot: int, team_id: str) -> None:
        """Make an admitted sandbox, which was no team's, one of this team."""
        with self._teams.joining(slot, team_id) as bounds:
            if bounds:
                self._elements.change(also=bounds)

    def bound_teams(self, traffic: Collection[TeamTraffic]) -> None:
        """Bound the traffic of these teams, and of no others, also of live sandboxes."""
        self._teams.bound(traffic)

    def begin_day(self) -> None:
        """Let each team have its volume of the day. Cheap; call it periodically."""
        self._teams.begin_day()

    def set_egress(self, slot: int, policy: EgressPolicy) -> None:
        """Change the sandbox's egress policy, for established connections too."""

        def body() -> None:
            if self._netlink.link(self._plan.interface(slot)) is None:
                raise IsolationError(f"network slot {slot} is not attached", step="set egress")
            element = self._plan.element("online", slot)
            own = self._own.replacement(slot, policy_rules(policy))
            self._elements.change(add=[element], delete=[element] if policy.is_closed else [], also=own)

        self._thread.call(body)

    def release(self, slot: int) -> bool:
        """Remove the sandbox from the sets, delete its pair and its tracked connections; whether it had connections. Idempotent.

        The kernel searches its whole connection table (10 ms), so a sandbox that is not in the set ``flows`` is spared the search.
        """
        self.shut_out(slot)
        self._thread.call(lambda: self._netlink.delete_link(self._plan.interface(slot)))
        return self.forget(slot)

    def shut_out(self, slot: int) -> None:
        """Remove the sandbox from the sets: from now on none of its packets passes."""
        own = self._own.removal(slot)
        elements = [self._plan.element(name, slot) for name in ("sandboxes", "online")]
        with self._teams.leaving(slot) as bounds:
            self._elements.change(delete=[*elements, *self._plan.volume(slot)], also=[*own, *bounds])

    def delete_pairs(self, slots: Sequence[int]) -> None:
        """Delete the pairs of several slots in one call, so that the kernel waits only once for its readers. Idempotent."""
        changes = [set_group(self._plan.interface(slot), _DYING_GROUP) for slot in slots]
        with self._reaping_lock:
            self._reaping.apply(*changes, delete_group(_DYING_GROUP))

    def forget(self, slot: int) -> bool:
        """Delete the tracked connections of a slot without an interface; whether it had any."""
        if not self.has_flows(slot):
            return False
        self._elements.change(delete=[self._plan.flow(slot)])
        run_in_netns(self.netns_fd, lambda: forget_connections(self._plan.address(slot)))
        return True

    def forget_some(self, slot: int, chosen: Callable[[TrackedConnection], bool]) -> None:
        """Delete those tracked connections of the slot that are ``chosen``."""
        run_in_netns(self.netns_fd, lambda: forget_connections(self._plan.address(slot), chosen))

    def has_flows(self, slot: int) -> bool:
        """Whether the slot's address had connections since its last release."""
        return self._elements.has(self._plan.flow(slot))

    def slots_with_flows(self) -> set[int]:
        """Slots whose address had connections since its last release."""
        base = int(self._plan.cidr.network_address)
        found = self._thread.call(lambda: self._nft.elements("inet", ROUTER_TABLE, "flows"))
        return {int(IPv4Address(address)) - base for address in found}

    def _slots_in_sets(self) -> set[int]:
        found = self._teams.slots()
        for name in ("sandboxes", "online", "listed"):
            slots = (self._plan.slot_of(interface_of(key)) for key in self._elements.keys(ROUTER_TABLE, name))
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

    def call_socket(self, slot: int) -> socket.socket:
        """A new, unconnected TCP socket for connections to the sandbox of a slot, and to nothing else; the caller owns it.

        It is bound to the slot's interface, which only a process with CAP_NET_RAW here could change. Source: sock_bindtoindex in
        net/core/sock.c. Raises: IsolationError, when the slot is not attached.
        """

        def body() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._plan.interface(slot).encode())
                sock.setsockopt(socket.SOL_IP, _BIND_ADDRESS_NO_PORT, 1)
                sock.bind((str(self._plan.caller), 0))
            except OSError as error:
                sock.close()
                raise IsolationError(f"network slot {slot} is not attached", step="dial", errno=error.errno or 0) from error
            return sock

        return self._thread.call(body)

    def counters(self) -> dict[str, int]:
        """Packets counted by each rule that has a comment, by comment."""
        return self._thread.call(lambda: self._nft.counters("inet", ROUTER_TABLE))

    def take_refusals(self) -> list[Refusal]:
        """Refused packets since the last call."""
        return self._refusals.take()

    def forget_refusals(self, slots: Collection[int]) -> None:
        """Delete the refusals of slots without an interface."""
        self._refusals.forget([self._plan.interface(slot) for slot in slots])

    def forget_strangers(self) -> None:
        """Delete the refusals of sources without an interface, left by sandboxes of a former server."""
        self._thread.call(lambda: self._refusals.forget(self._refusals.sources() - self._netlink.links().keys()))

    def survey(self) -> list[str]:
        """The router's interfaces, apart from loopback."""
        names = self._thread.call(self._netlink.links)
        return [f"router interface {name}" for name in names if name != "lo"]

    def empty(self) -> None:
        """Delete every pair and the ruleset, so that a namespace that a socket or mount keeps alive has no way out."""

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
