"""The host's side of a server's network: one interface, one nftables table, and forwarding on as few interfaces as possible.

Owns: ``cl<n>up``, the route to the sandboxes' range, the table ``cloister<n>``, and the forwarding flags that it turned on.
Must not: change objects of another instance or of the host's own firewall.

The kernel checks the forwarding flag of the *incoming* interface, so the global ``net.ipv4.ip_forward`` stays as it is. Two kinds of
interface need their own flag: the uplink, and each interface on which answers arrive (one with a route to a public or allowed address).
Turning the flag on would make the host a router for its neighbours. So the interface's name first goes into the set ``guarded``, and the
rule ``guard`` drops forwarded packets from it that are not a sandbox's. The last instance that guards an interface turns the flag off. If
the administrator turns the global switch on later, the host is a router by their decision: :meth:`HostSide.open_forwarding` drops the
guard.

Runs in: supervisor, on the thread in the host's network namespace. Needs: CAP_NET_ADMIN.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network
from pathlib import Path

from cloister.errors import IsolationError
from cloister.linux.netlink import Link, Netlink, Route
from cloister.linux.netns import write_sysctl
from cloister.linux.nftables import Nftables
from cloister.linux.nftsets import ElementSocket
from cloister.network.egress import egress_networks, host_networks, host_networks_change, host_ruleset, host_table
from cloister.network.plan import AddressPlan
from cloister.network.refusals import RefusalSets

__all__ = ["HOST_MAC", "MAX_MTU", "ROUTER_MAC", "HostSide"]

HOST_MAC = bytes.fromhex("02434c000001")
ROUTER_MAC = bytes.fromhex("02434c000002")
MAX_MTU = 1500
_MIN_MTU = 1280
_LOCAL_TABLE = 255
_OURS = re.compile(r"cl[0-9](up|rt|s[0-9]+)")


class HostSide:
    """One instance's objects in the host's namespace. Call every method on that namespace's thread."""

    def __init__(self, plan: AddressPlan) -> None:
        self._plan = plan
        self._netlink = Netlink()
        self._nft = Nftables()
        self._table = host_table(plan.instance)
        self._elements = ElementSocket()
        self.refusals = RefusalSets(self._elements, self._table, 4, plan.slot_at)

    def close(self) -> None:
        """Close the sockets; kernel objects stay."""
        self._nft.close()
        self._elements.close()
        self._netlink.close()

    def check_range_is_free(self) -> None:
        """Raises: IsolationError: the host already routes a part of the sandboxes' range elsewhere."""
        names = {link.index: link.name for link in self._netlink.links().values()}
        for route in self._netlink.routes():
            users = {names.get(index, "?") for index in route.interfaces} - {self._plan.host_interface}
            if users and route.destination.prefixlen and route.destination.overlaps(self._plan.cidr):
                if route.destination.supernet_of(self._plan.cidr) and route.destination != self._plan.cidr:
                    continue
                raise IsolationError(
                    f"the sandbox network {self._plan.cidr} overlaps with {route.destination} on {', '.join(sorted(users))}",
                    step="address range",
                    hint="choose another sandbox network in the settings",
                )

    def apply_rules(self) -> None:
        """Make or renew the table."""
        self._nft.run(host_ruleset(self._plan.rules()))

    def networks(self) -> list[IPv4Network]:
        """The host's own networks, from the routes of all tables; without those of sandboxes' interfaces."""
        return host_networks(route.destination for route in self._foreign_routes() if route.is_on_link)

    def _foreign_routes(self) -> list[Route]:
        ours = {link.index for link in self._netlink.links().values() if _OURS.fullmatch(link.name)}
        return [route for route in self._netlink.routes() if route.table != _LOCAL_TABLE and not ours.issuperset(route.interfaces)]

    def refuse_networks(self, networks: list[IPv4Network]) -> None:
        """Replace the list of the host's own networks, which sandboxes may not reach."""
        self._elements.change(also=host_networks_change(self._table, networks))

    def bring_uplink_up(self, mtu: int) -> None:
        """Configure the host's end of the uplink: address, route, sysctls."""
        name = self._plan.host_interface
        link = self._netlink.link(name)
        if link is None:
            raise IsolationError(f"the uplink {name} is gone", step="uplink")
        if Path("/proc/sys/net/ipv6").exists():
            write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")
        for setting, value in (("send_redirects", "0"), ("accept_redirects", "0"), ("route_localnet", "0"), ("forwarding", "1")):
            write_sysctl(f"net/ipv4/conf/{name}/{setting}", value)
        self._netlink.set_up(link.index, mtu)
        self._netlink.add_address(link.index, self._plan.host_uplink)
        self._netlink.set_neighbour(link.index, self._plan.router_uplink, ROUTER_MAC)
        self._netlink.set_route(self._plan.cidr, link.index, self._plan.router_uplink)

    def uplink(self) -> Link | None:
        """The host's end of the uplink, if it exists."""
        return self._netlink.link(self._plan.host_interface)

    def delete_uplink(self) -> None:
        """Delete the uplink pair. Idempotent."""
        self._netlink.delete_link(self._plan.host_interface)

    def egress_links(self) -> list[Link]:
        """The interfaces with a route to a destination that sandboxes may reach, by index."""
        reachable: dict[int, list[IPv4Network]] = {}
        for route in self._foreign_routes():
            for index in route.interfaces:
                reachable.setdefault(index, []).append(route.destination)
        links = [link for link in self._netlink.links().values() if link.name != "lo" and not _OURS.fullmatch(link.name)]
        own = self.networks()
        chosen = [link for link in links if egress_networks(reachable.get(link.index, []), self._plan.allowed, own)]
        return sorted(chosen, key=lambda link: link.index)

    def mtu(self) -> int:
        """The MTU for sandboxes: the smallest of all egress interfaces, within bounds."""
        return max(_MIN_MTU, min([MAX_MTU, *(link.mtu for link in self.egress_links())]))

    def _guarded(self, table: str) -> set[str]:
        return {str(name) for name in self._nft.elements("inet", table, "guarded")}

    def _guarded_by_others(self) -> set[str]:
        others = {name for family, name in self._nft.tables() if family == "inet" and re.fullmatch(r"cloister[0-9]", name)}
        return set().union(*(self._guarded(table) for table in others - {self._table}))

    def open_forwarding(self) -> None:
        """Turn forwarding on where answers arrive; guard each interface first. The caller holds the host-wide lock."""
        if _read_flag("net/ipv4/ip_forward"):
            self._nft.run(f"flush set inet {self._table} guarded")
            guard = False
        else:
            guard = True
        others = self._guarded_by_others()
        for link in self.egress_links():
            flag = f"net/ipv4/conf/{link.name}/forwarding"
            is_on = _read_flag(flag)
            if guard and (not is_on or link.name in others):
                self._nft.run(f'add element inet {self._table} guarded {{ "{link.name}" }}')
            if not is_on:
                write_sysctl(flag, "1")

    def close_forwarding(self) -> None:
        """Turn forwarding off where this instance turned it on and no other needs it. The caller holds the host-wide lock."""
        for name in self._guarded(self._table) - self._guarded_by_others():
            if Path(f"/proc/sys/net/ipv4/conf/{name}").exists():
                write_sysctl(f"net/ipv4/conf/{name}/forwarding", "0")

    def delete_rules(self) -> None:
        """Delete the table. Idempotent."""
        self._nft.run(f"add table inet {self._table}\ndelete table inet {self._table}")

    def survey(self) -> list[str]:
        """The objects of this instance in the host's namespace."""
        mine = re.compile(rf"cl{self._plan.instance}(up|rt|s[0-9]+)")
        found = [f"host interface {name}" for name in self._netlink.links() if mine.fullmatch(name)]
        found += [f"host route {route.destination}" for route in self._netlink.routes() if route.destination == self._plan.cidr]
        return found + [f"host nftables table {family} {name}" for family, name in self._nft.tables() if name == self._table]


def _read_flag(name: str) -> bool:
    return Path("/proc/sys", name).read_text().strip() == "1"
