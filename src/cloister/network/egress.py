"""The egress policy of a server, as nftables text. Pure: no I/O, no kernel.

Owns: which destinations are refused, and both rulesets: the router's (where every sandbox's interface ends) and the host's.
Must not: touch the kernel; slots.py applies what is made here.
Invariant I4: what no rule names is dropped. A sandbox's packet leaves only when its interface *and* source address are together in
``online``, the destination is not refused, and the way out is the uplink. These checks look at every packet, before any connection state,
so that taking a sandbox out of ``online`` ends its established connections too. Each rule and the test that holds it: docs/network.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from cloister.network.refusals import because, note_chains, note_sets

__all__ = ["FLOWS_PER_SANDBOX", "REFUSED", "ROUTER_TABLE", "RulesetPlan", "egress_networks", "host_ruleset", "host_table", "router_ruleset"]

ROUTER_TABLE = "cloister"
FLOWS_PER_SANDBOX = 4096
"""Connections that one sandbox may have tracked at a time; the host's connection table is shared by all."""

REFUSED = tuple(
    IPv4Network(cidr)
    for cidr in (
        "0.0.0.0/8",  # "this network"
        "10.0.0.0/8",  # private; sandboxes themselves live here
        "100.64.0.0/10",  # carrier-grade NAT; some clouds' metadata service (100.100.100.200)
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's platform and metadata service, at a public-looking address
        "169.254.0.0/16",  # link-local; most clouds' metadata service (169.254.169.254)
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata service (192.0.0.192)
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking, used as private space
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and limited broadcast
    )
)
"""Destinations that no sandbox reaches unless a setting lists them. The documentation ranges (192.0.2.0/24, 198.51.100.0/24,
203.0.113.0/24) are not here: nothing is routed to them on the internet, and networks that do route them treat them as public."""


@dataclass(frozen=True)
class RulesetPlan:
    """What both rulesets are made from: names, the sandboxes' range, and what is allowed beyond the public internet."""

    instance: int
    cidr: IPv4Network
    gateway: IPv4Address
    host_interface: str
    router_interface: str
    allowed: tuple[IPv4Network, ...]


def host_table(instance: int) -> str:
    """The name of the instance's one table in the host's namespace (family inet)."""
    return f"cloister{instance}"


def egress_networks(networks: Iterable[IPv4Network], allowed: tuple[IPv4Network, ...]) -> set[IPv4Network]:
    """Those of ``networks`` that hold at least one destination that a sandbox may reach."""
    return {
        network
        for network in networks
        if not any(network.subnet_of(refused) for refused in REFUSED) or any(network.overlaps(extra) for extra in allowed)
    }


def _interval_set(name: str, networks: Iterable[IPv4Network]) -> str:
    elements = ", ".join(str(network) for network in collapse_addresses(networks))
    listed = f" elements = {{ {elements} }};" if elements else ""
    return f"set {name} {{ type ipv4_addr; flags interval;{listed} }}"


def _renewed(table: str, body: str) -> str:
    """``body`` (the table's sets and chains), preceded by what empties the rules and constant sets that an earlier run left.

    The sets that hold sandboxes are left alone. A base chain must be added with its hook, since a transaction cannot hang it on one
    afterwards.
    """
    lines = [f"add table inet {table}"]
    for name, hook in re.findall(r"^  chain (\w+) \{\n(?:    (type .*)\n)?", body, re.MULTILINE):
        lines.append(f"add chain inet {table} {name}" + (f" {{ {hook} }}" if hook else ""))
        lines.append(f"flush chain inet {table} {name}")
    for name in ("refused", "allowed"):
        lines.append(f"add set inet {table} {name} {{ type ipv4_addr; flags interval; }}")
        lines.append(f"flush set inet {table} {name}")
    return "\n".join(lines) + f"\ntable inet {table} {{\n{body}}}\n"


def router_ruleset(plan: RulesetPlan) -> str:
    """The ruleset of the router's namespace; applying it again keeps the sandboxes that are in the sets.

    ``sandboxes`` and ``online`` hold (interface name, source address) pairs: who may speak at all, and who may use the internet.
    """
    uplink, flooded = plan.router_interface, because("too_many_connections")
    body = f"""\
  set sandboxes {{ type ifname . ipv4_addr; }}
  set online {{ type ifname . ipv4_addr; }}
  set flows {{ type ipv4_addr; size 65535; flags dynamic; }}
{note_sets("ifname")}\
  {_interval_set("refused", REFUSED)}
  {_interval_set("allowed", plan.allowed)}

  chain prerouting {{
    type filter hook prerouting priority raw; policy drop;
    iifname "lo" accept
    meta nfproto != ipv4 counter {because("ipv6")} goto discard comment "ipv6"
    iifname "{uplink}" accept
    iifname . ip saddr != @sandboxes counter {because("spoofed_source")} goto discard comment "spoofed"
    iifname . ip saddr != @online counter {because("no_internet")} goto refuse comment "offline"
    accept
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    iifname "{uplink}" counter drop comment "router-from-host"
    ip daddr {plan.gateway} udp dport 53 accept
    ip daddr {plan.gateway} tcp dport 53 accept
    counter {because("gateway")} goto refuse comment "router-itself"
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    iifname "{uplink}" goto inbound
    oifname != "{uplink}" counter {because("neighbour")} goto refuse comment "neighbour"
    ip daddr @allowed goto outbound
    ip daddr @refused counter {because("not_public")} goto refuse comment "refused"
    goto outbound
  }}
  chain outbound {{
    ct state invalid counter drop comment "invalid"
    ct state new add @flows {{ ip saddr ct count over {FLOWS_PER_SANDBOX} }} counter {flooded} goto refuse comment "flows"
    counter accept comment "out"
  }}
  chain inbound {{
    oifname . ip daddr != @online counter drop comment "inbound-offline"
    ct state established,related counter accept comment "in"
    counter drop comment "unasked"
  }}
  chain refuse {{
    jump note
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }}
  chain discard {{
    jump note
    drop
  }}
{note_chains("iifname", ipv6=True)}"""
    return _renewed(ROUTER_TABLE, body)


def host_ruleset(plan: RulesetPlan) -> str:
    """The ruleset of the host's namespace; it judges only what comes from or goes to the sandboxes, and the interfaces in ``guarded``.

    ``guarded`` holds the interfaces whose forwarding this server turned on: nothing but sandboxes' traffic is forwarded from them.
    ``fib daddr type`` is asked before any address translation, so that a port which the host publishes for a container is refused as well.
    """
    uplink = plan.host_interface
    body = f"""\
  set guarded {{ type ifname; }}
{note_sets("ipv4_addr")}\
  {_interval_set("refused", REFUSED)}
  {_interval_set("allowed", plan.allowed)}

  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{uplink}" goto from_sandboxes
    ip daddr {plan.cidr} counter drop comment "range-from-outside"
  }}
  chain from_sandboxes {{
    meta nfproto != ipv4 counter drop comment "ipv6"
    ip saddr != {plan.cidr} counter drop comment "spoofed"
    fib daddr type != unicast counter {because("host")} goto discard comment "host-address"
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{uplink}" counter {because("host")} goto discard comment "host-itself"
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{uplink}" goto outbound
    oifname "{uplink}" goto inbound
    iifname @guarded oifname != "cl*" counter drop comment "guard"
  }}
  chain outbound {{
    oifname "cl*" counter {because("neighbour")} goto discard comment "neighbour-instance"
    ip daddr @allowed accept
    ip daddr @refused counter {because("not_public")} goto discard comment "refused"
  }}
  chain inbound {{
    ct state established,related accept
    counter drop comment "unasked"
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {plan.cidr} oifname != "{uplink}" counter masquerade comment "masquerade"
  }}
  chain discard {{
    jump note
    drop
  }}
{note_chains("ip saddr", ipv6=False)}"""
    return _renewed(host_table(plan.instance), body)
