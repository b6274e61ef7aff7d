"""The router's rules about the egress process, as nftables text: what is sent to it, and where it may connect to. Pure: no I/O.

Invariant I4: a connection that must go to the egress process and does not is refused. So a lost redirection opens nothing. The egress
process itself reaches the resolver and the destinations of any sandbox. Sandboxes get answers of it, but no connections.
Runs in: supervisor. Needs: no capability.

::

    sandbox --> nat prerouting: map redirected --> dnat to gateway:15001 or :15053 --> input: by_gate --> egress process
    egress process --> output: from_gate --> uplink, gateway:53, or answers to sandboxes
"""

from __future__ import annotations

from ipaddress import IPv4Address

from cloister.network.gate import DNS_PORT, TCP_PORT
from cloister.network.refusals import because

__all__ = ["output_chains", "past_gate_chains", "redirect_chains"]

_NAMES = "meta l4proto { tcp, udp } th dport 53"


def redirect_chains(gateway: IPv4Address) -> str:
    """New connections to the egress process. Refused destinations keep their address, so that they are refused by their own rules."""
    to_names = f'{_NAMES} counter dnat ip to {gateway}:{DNS_PORT} comment "redirect-names"'
    return f"""\
  chain to_gate {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname vmap @redirected
  }}
  chain gate_names_web {{
    {to_names}
    goto gate_web
  }}
  chain gate_names_tcp {{
    {to_names}
    goto gate_tcp
  }}
  chain gate_web {{
    tcp dport {{ 80, 443 }} goto gate_checked
  }}
  chain gate_tcp {{
    meta l4proto tcp goto gate_checked
  }}
  chain gate_checked {{
    ip daddr {gateway} return
    ip daddr @allowed goto gate_there
    ip daddr @refused return
    ip daddr @host_networks return
    goto gate_there
  }}
  chain gate_there {{
    meta l4proto tcp counter dnat ip to {gateway}:{TCP_PORT} comment "redirect"
  }}
"""


def past_gate_chains(uplink: str) -> str:
    """Connections that must go to the egress process and did not are refused: those of before the policy, and UDP and ICMP."""
    refuse = f"counter {because('unproxied')} goto refuse"
    return f"""\
  chain only_web_by_gate {{
    oifname "{uplink}" tcp dport {{ 80, 443 }} {refuse} comment "web-past-gate"
    iifname "{uplink}" tcp sport {{ 80, 443 }} counter drop comment "web-past-gate-inward"
  }}
  chain only_names_by_gate {{
    oifname "{uplink}" {_NAMES} {refuse} comment "names-past-gate"
    iifname "{uplink}" meta l4proto {{ tcp, udp }} th sport 53 counter drop comment "names-past-gate-inward"
  }}
  chain only_by_gate {{
    oifname "{uplink}" {refuse} comment "past-gate"
    counter drop comment "past-gate-inward"
  }}
  chain no_questions {{
    counter {because("denied")} goto refuse comment "no-questions"
  }}
  chain questions_by_gate {{
    {refuse} comment "questions-past-gate"
  }}
"""


def output_chains(uplink: str, gateway: IPv4Address, egress_uid: int, to_sandboxes: str, use_timeouts: str) -> str:
    """What the router sends by itself. The uid is that of the socket's maker; the kernel's own answers have none.

    ``to_sandboxes`` are rules for packets to sandboxes, ``use_timeouts`` rules for new connections. A packet without a uid that belongs
    to no connection does not leave by the uplink.
    """
    return f"""\
  chain output {{
    type filter hook output priority filter; policy accept;
    oifname != {{ "lo", "{uplink}" }} jump to_sandboxes
    meta skuid {egress_uid} goto from_gate
    oifname "{uplink}" ct state != {{ established, related }} counter drop comment "router-outward"
  }}
  chain to_sandboxes {{
{to_sandboxes}  }}
  chain from_gate {{
    meta nfproto != ipv4 counter goto refuse_gate comment "gate-ipv6"
    oifname "lo" ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept
    oifname "lo" counter goto refuse_gate comment "gate-router"
    oifname != "{uplink}" ct state established ct direction reply accept
    oifname != "{uplink}" counter goto refuse_gate comment "gate-neighbour"
    ip daddr @allowed goto gate_out
    ip daddr @refused counter goto refuse_gate comment "gate-refused"
    ip daddr @host_networks counter goto refuse_gate comment "gate-host-network"
    goto gate_out
  }}
  chain gate_out {{
{use_timeouts}\
    counter accept comment "gate-out"
  }}
  chain refuse_gate {{
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }}
"""
