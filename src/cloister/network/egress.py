"""The egress policy of a server, as nftables text. Pure: no I/O.

Owns: the list of refused destinations and both rulesets: the router's, where all sandboxes' interfaces end, and the host's.
Must not: change the kernel; router.py and host_side.py apply the rulesets.
Invariant I4: a packet that no rule accepts is dropped. A sandbox's packet leaves only if its interface *and* source address are together
in ``online``, its destination is not refused, and it leaves by the uplink. Every packet is checked, before any connection state: so
removing a sandbox from ``online`` also ends its established connections. docs/network.md lists each rule with its test.
Runs in: supervisor. Needs: no capability.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from cloister.linux.nftrules import Message, add_intervals, flush_set
from cloister.network.bounds import NO_BOUNDS, TrafficBounds
from cloister.network.gate_rules import output_chains, past_gate_chains, redirect_chains
from cloister.network.policy_rules import intervals_of
from cloister.network.refusals import because, note_chains, note_sets
from cloister.network.team_bounds import team_maps, team_openings, team_packets, team_rate, team_volume

__all__ = [
    "FLOWS_PER_SANDBOX",
    "REFUSED",
    "ROUTER_TABLE",
    "RulesetPlan",
    "egress_networks",
    "host_networks",
    "host_networks_change",
    "host_ruleset",
    "host_table",
    "router_ruleset",
]

ROUTER_TABLE = "cloister"
FLOWS_PER_SANDBOX = 2048
"""Bound of one sandbox's tracked connections, queries to the resolver included. All sandboxes share the host's table: 64 sandboxes at
their bound take half of the usual 262,144 entries."""

FLOWS_OF_GATE = 16 * FLOWS_PER_SANDBOX
"""Bound of the connections that the egress process has open for all sandboxes. Each of theirs to it is within their own bound."""

_TIMEOUTS = """\
  ct timeout tcp_of_sandboxes {
    protocol tcp; l3proto ip
    policy = { syn_sent : 60, syn_recv : 30, established : 86400, fin_wait : 30, close_wait : 60, last_ack : 30, time_wait : 15, close : 5 }
  }
  ct timeout udp_of_sandboxes {
    protocol udp; l3proto ip
    policy = { unreplied : 15, replied : 60 }
  }
"""
"""Seconds that a sandbox's connection stays in the tables of router and host after its last packet. By the kernel's own values a closed
connection stays for two minutes, so a few connections a second would reach the bound."""

_USE_TIMEOUTS = """\
    ct state new meta l4proto tcp ct timeout set "tcp_of_sandboxes"
    ct state new meta l4proto udp ct timeout set "udp_of_sandboxes"
"""

_TO_ONLINE = """\
    meta skuid 0-4294967294 oifname . ip daddr != @online counter drop comment "answers-offline"
"""
"""Every socket has a uid; refusals, which the kernel sends, have none and may go to sandboxes that are not online."""

_REFUSE = """\
  chain refuse {
    jump note
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }
"""
_DISCARD = """\
  chain discard {
    jump note
    drop
  }
"""

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
"""Destinations that sandboxes may reach only if a setting lists them. The documentation ranges (192.0.2.0/24, 198.51.100.0/24,
203.0.113.0/24) are left out: the internet does not route them, and networks that route them treat them as public.
The host's own networks are refused too, whatever their range (:func:`host_networks`)."""

_SHORTEST_NETWORK = 8
"""Prefix length. A shorter route without a router is the default route of a point-to-point link (0.0.0.0/0, 0.0.0.0/1)."""


@dataclass(frozen=True)
class RulesetPlan:
    """The input of both rulesets: names, the sandboxes' range, and the networks allowed beyond public ones."""

    instance: int
    cidr: IPv4Network
    gateway: IPv4Address
    caller: IPv4Address
    """Where connections of this server to sandboxes with a network stack of their own come from."""
    host_interface: str
    router_interface: str
    router_uplink: IPv4Address
    allowed: tuple[IPv4Network, ...]
    relay_uid: int
    """Host uid of the DNS relay: its connections have the same timeouts as those of sandboxes."""
    egress_uid: int
    """Host uid of the egress process."""
    mbit_per_s: int | None = None
    """Bound of one sandbox's traffic, each way; None: no bound."""
    bounds: TrafficBounds = NO_BOUNDS


def host_table(instance: int) -> str:
    """The name of the instance's one table in the host's namespace (family inet)."""
    return f"cloister{instance}"


def egress_networks(networks: Iterable[IPv4Network], allowed: Iterable[IPv4Network], own: Iterable[IPv4Network] = ()) -> set[IPv4Network]:
    """Those of ``networks`` with a destination that a sandbox may reach; ``own`` are the host's networks (:func:`host_networks`)."""
    closed, opened = (*REFUSED, *own), tuple(allowed)
    return {
        network
        for network in networks
        if not any(network.subnet_of(refused) for refused in closed) or any(network.overlaps(extra) for extra in opened)
    }


def host_networks(on_link: Iterable[IPv4Network]) -> list[IPv4Network]:
    """The host's own networks: those it reaches without a router; overlaps are merged."""
    return sorted(collapse_addresses(network for network in on_link if network.prefixlen >= _SHORTEST_NETWORK))


def host_networks_change(table: str, networks: Iterable[IPv4Network]) -> list[Message]:
    """The transaction that replaces the elements of the table's set ``host_networks``."""
    return [flush_set(table, "host_networks"), *add_intervals(table, "host_networks", intervals_of(map(str, networks)))]


def _interval_set(name: str, networks: Iterable[IPv4Network]) -> str:
    elements = ", ".join(str(network) for network in collapse_addresses(networks))
    listed = f" elements = {{ {elements} }};" if elements else ""
    return f"set {name} {{ type ipv4_addr; flags interval;{listed} }}"


def _destination_sets(plan: RulesetPlan) -> str:
    return f"""\
  {_interval_set("refused", REFUSED)}
  {_interval_set("allowed", plan.allowed)}
  {_interval_set("host_networks", ())}
"""


def _renewed(table: str, body: str) -> str:
    """``body`` (the table's sets and chains), after commands that empty the rules and constant sets of an earlier run.

    Sets of sandboxes and of the host's networks keep their elements. A base chain must be added with its hook: a transaction cannot attach
    the hook later.
    """
    lines = [f"add table inet {table}"]
    for name, hook in re.findall(r"^  chain (\w+) \{\n(?:    (type .*)\n)?", body, re.MULTILINE):
        lines.append(f"add chain inet {table} {name}" + (f" {{ {hook} }}" if hook else ""))
        lines.append(f"flush chain inet {table} {name}")
    for name in ("refused", "allowed"):
        lines.append(f"add set inet {table} {name} {{ type ipv4_addr; flags interval; }}")
        lines.append(f"flush set inet {table} {name}")
    return "\n".join(lines) + f"\ntable inet {table} {{\n{body}}}\n"


def _flooded(bound: int = FLOWS_PER_SANDBOX) -> str:
    """The beginning of a rule for packets that would open a connection beyond the bound."""
    return f"ct state new add @flows {{ ip saddr ct count over {bound} }} counter {because('too_many_connections')}"


def _rate_sets(mbit_per_s: int | None) -> str:
    if mbit_per_s is None:
        return ""
    names = (f"{way}_{mbit_per_s}" for way in ("egress", "ingress"))
    return "".join(f"  set {name} {{ type ifname; size 65535; flags dynamic; }}\n" for name in names)


def _too_fast(way: str, key: str, mbit_per_s: int | None) -> str:
    """The rule that drops packets beyond a sandbox's rate; a burst of about one second's traffic may pass. TCP adapts to the drops.

    The set's name has the rate in it, because an element keeps the rate that it was made with. Source: nft_limit_init in net/netfilter
    (the kernel adds one second's bytes to the burst).
    """
    if mbit_per_s is None:
        return ""
    kbytes = mbit_per_s * 125
    rate = f"limit rate over {kbytes} kbytes/second burst {max(64, kbytes // 10)} kbytes"
    return f'update @{way}_{mbit_per_s} {{ {key} {rate} }} counter drop comment "{way}-rate"'


def _own_chains(plan: RulesetPlan) -> str:
    """The router's rules for packets to itself: questions to the resolver, and answers to connections that this server opened.

    A packet that could open a connection to the caller's address is refused, whatever connections there are.
    """
    return f"""\
  chain answer {{
    tcp flags & (fin | syn | rst | ack) != syn accept
    counter {because("gateway")} goto refuse comment "caller"
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    iifname "{plan.router_interface}" ct state established,related ct direction reply counter accept comment "gate-in"
    iifname "{plan.router_interface}" counter drop comment "router-from-host"
    ip daddr {plan.caller} ct direction reply ct state established,related accept
    ip daddr {plan.gateway} ct status dnat goto by_gate
    ip daddr {plan.gateway} udp dport 53 goto question
    ip daddr {plan.gateway} tcp dport 53 goto question
    counter {because("gateway")} goto refuse comment "router-itself"
  }}
  chain by_gate {{
    {_too_fast("egress", "iifname", plan.mbit_per_s)}
{team_rate("egress")}{_USE_TIMEOUTS}\
    {_flooded()} goto refuse comment "flows-by-gate"
{_openings_and_volume(plan)}\
    counter accept comment "by-gate"
  }}
  chain question {{
    iifname vmap @asking
{_USE_TIMEOUTS}\
    {_flooded()} goto refuse comment "flows-of-questions"
{plan.bounds.openings()}{team_openings()}\
    accept
  }}
"""


def _openings_and_volume(plan: RulesetPlan) -> str:
    """The rules that refuse what is beyond the bounds of a sandbox or of its team: a sandbox beyond its own uses up none of its team's."""
    return plan.bounds.openings() + team_openings() + plan.bounds.volume_outward() + team_volume("egress")


def router_ruleset(plan: RulesetPlan) -> str:
    """The ruleset of the router's namespace. Applying it again keeps the sandboxes in the sets.

    ``sandboxes`` and ``online`` hold pairs of interface name and source address: sandboxes whose packets pass at all, and those that may
    use the internet. The maps hold the interfaces of sandboxes with rules of their own (policy_rules.py).
    """
    uplink = plan.router_interface
    too_fast = _too_fast("ingress", "oifname", plan.mbit_per_s)
    to_sandboxes = f"    ip saddr {plan.caller} return\n{_TO_ONLINE}" + (f"    {too_fast}\n" if too_fast else "")
    to_sandboxes += team_rate("ingress") + plan.bounds.volume_inward() + team_volume("ingress")
    body = f"""\
  set sandboxes {{ type ifname . ipv4_addr; }}
  set online {{ type ifname . ipv4_addr; }}
  set flows {{ type ipv4_addr; size 65535; flags dynamic; }}
  map listed {{ type ifname : verdict; }}
  map redirected {{ type ifname : verdict; }}
  map asking {{ type ifname : verdict; }}
{note_sets("ifname")}\
{_TIMEOUTS}{_rate_sets(plan.mbit_per_s)}{plan.bounds.sets()}{team_maps()}\
{_destination_sets(plan)}
{_router_entry(plan)}{_own_chains(plan)}{_router_forward(plan)}\
{redirect_chains(plan.gateway)}{past_gate_chains(uplink)}\
{output_chains(uplink, plan.gateway, plan.egress_uid, to_sandboxes, _USE_TIMEOUTS)}\
{_REFUSE}{_DISCARD}\
{note_chains("iifname", ipv6=True)}"""
    return _renewed(ROUTER_TABLE, body)


def _router_entry(plan: RulesetPlan) -> str:
    """The chain that every packet enters."""
    uplink = plan.router_interface
    return f"""\
  chain prerouting {{
    type filter hook prerouting priority raw; policy drop;
    iifname "lo" accept
    meta nfproto != ipv4 counter {because("ipv6")} goto discard comment "ipv6"
    iifname "{uplink}" accept
{plan.bounds.packets()}{team_packets()}\
    iifname . ip saddr != @sandboxes counter {because("spoofed_source")} goto discard comment "spoofed"
    ip daddr {plan.caller} goto answer
    iifname . ip saddr != @online counter {because("no_internet")} goto refuse comment "offline"
    accept
  }}
"""


def _router_forward(plan: RulesetPlan) -> str:
    """The chains of packets between sandboxes and the uplink."""
    uplink, flooded = plan.router_interface, _flooded()
    return f"""\
  chain forward {{
    type filter hook forward priority filter; policy drop;
    iifname "{uplink}" goto inbound
    oifname != "{uplink}" counter {because("neighbour")} goto refuse comment "neighbour"
    ip daddr @allowed goto checked
    ip daddr @refused counter {because("not_public")} goto refuse comment "refused"
    ip daddr @host_networks counter {because("host_network")} goto refuse comment "host-network"
    goto checked
  }}
  chain checked {{
    iifname vmap @listed
    goto outbound
  }}
  chain denied {{
    counter {because("denied")} goto refuse comment "denied"
  }}
  chain denied_inward {{
    counter drop comment "denied-inward"
  }}
  chain outbound {{
    {_too_fast("egress", "iifname", plan.mbit_per_s)}
{team_rate("egress")}\
    ct state invalid counter drop comment "invalid"
{_USE_TIMEOUTS}    {flooded} goto refuse comment "flows"
{_openings_and_volume(plan)}\
    counter accept comment "out"
  }}
  chain inbound {{
    oifname . ip daddr != @online counter drop comment "inbound-offline"
    {_too_fast("ingress", "oifname", plan.mbit_per_s)}
{team_rate("ingress")}\
    ct state related icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} counter accept comment "in-errors"
    oifname vmap @listed
{plan.bounds.volume_inward()}{team_volume("ingress")}\
    ct state established,related counter accept comment "in"
    counter drop comment "unasked"
  }}
"""


def host_ruleset(plan: RulesetPlan) -> str:
    """The ruleset of the host's namespace. It concerns only traffic of sandboxes and of the interfaces in ``guarded``.

    ``guarded`` holds the interfaces whose forwarding this server turned on: from them only sandboxes' traffic is forwarded.
    ``fib daddr type`` is checked before address translation, so that a port which the host publishes for a container is refused too.
    """
    uplink = plan.host_interface
    body = f"""\
  set guarded {{ type ifname; }}
  set flows {{ type ipv4_addr; size 65535; flags dynamic; }}
{note_sets("ipv4_addr")}\
{_TIMEOUTS}\
{_destination_sets(plan)}
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
{_host_outbound(plan)}\
  chain relay {{
    type filter hook output priority filter; policy accept;
    meta skuid != {plan.relay_uid} accept
{_USE_TIMEOUTS}\
  }}
  chain inbound {{
    ct state established,related accept
    counter drop comment "unasked"
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {plan.cidr} oifname != "{uplink}" counter masquerade comment "masquerade"
  }}
{_DISCARD}\
{note_chains("ip saddr", ipv6=False)}"""
    return _renewed(host_table(plan.instance), body)


def _host_outbound(plan: RulesetPlan) -> str:
    """The chains of packets that come from sandboxes or from their egress process and leave by another interface."""
    return f"""\
  chain outbound {{
    oifname "cl*" counter {because("neighbour")} goto discard comment "neighbour-instance"
    ip daddr @allowed goto tracked
    ip daddr @refused counter {because("not_public")} goto discard comment "refused"
    ip daddr @host_networks counter {because("host_network")} goto discard comment "host-network"
    goto tracked
  }}
  chain tracked {{
{_USE_TIMEOUTS}\
    ip saddr {plan.router_uplink} goto tracked_gate
    {_flooded()} goto discard comment "flows"
  }}
  chain tracked_gate {{
    {_flooded(FLOWS_OF_GATE)} goto discard comment "flows-of-gate"
  }}
"""
