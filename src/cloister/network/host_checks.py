"""Checks for ``cloister doctor``: settings of this host that block or weaken the sandboxes' network, with remedies.

Must not: change the host's firewall or settings. Invariant I7: every finding is reported, none is silently worked around.
Runs in: supervisor or command line, in the host's network namespace. Needs: CAP_NET_ADMIN to read the rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloister.errors import CloisterError
from cloister.linux.nftables import Nftables

__all__ = ["NetworkFinding", "check_host"]

_NEIGHBOUR_LIMIT = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
_LEGACY_TABLES = Path("/proc/net/ip_tables_names")
_MIN_NEIGHBOURS = 4096


@dataclass(frozen=True)
class NetworkFinding:
    """``is_fatal``: sandboxes would have no network, or a weaker one, until ``remedy`` is applied."""

    problem: str
    remedy: str
    is_fatal: bool


def check_host() -> list[NetworkFinding]:
    """The findings in the calling thread's network namespace; empty if there is no problem."""
    try:
        nft = Nftables()
    except CloisterError as error:
        return [NetworkFinding(error.message, error.hint or "install nftables' library", is_fatal=True)]
    try:
        found = _forward_findings(nft)
    except CloisterError as error:
        found = [NetworkFinding(error.message, "the kernel needs nf_tables; run as root", is_fatal=True)]
    finally:
        nft.close()
    return found + _legacy_findings() + _limit_findings()


def _forward_findings(nft: Nftables) -> list[NetworkFinding]:
    """Foreign chains that drop forwarded packets: an accept in our own table does not overrule them."""
    found = []
    for chain in nft.base_chains():
        is_ours = chain.family == "inet" and chain.table.removeprefix("cloister").isdigit()
        if chain.hook != "forward" or chain.policy != "drop" or is_ours:
            continue
        problem = f"the firewall chain {chain.family} {chain.table} {chain.name} drops what it does not know, sandboxes' traffic included"
        if chain.table == "filter" and chain.name == "FORWARD":
            user = "DOCKER-USER" if _has_docker(nft) else "FORWARD"
            remedy = (
                f"iptables -I {user} -i 'cl+' -j ACCEPT; iptables -I {user} -o 'cl+' -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
            )
        else:
            place = f"{chain.family} {chain.table} {chain.name}"
            remedy = (
                f'nft \'insert rule {place} iifname "cl*" accept; insert rule {place} oifname "cl*" ct state established,related accept\''
            )
        found.append(NetworkFinding(problem, remedy + " (and make it permanent the way that firewall has)", is_fatal=True))
    if ("inet", "firewalld") in nft.tables():
        remedy = "firewall-cmd --permanent --zone=trusted --add-interface=cl0up (a line for each instance), then firewall-cmd --reload"
        found.append(NetworkFinding("firewalld rejects forwarded traffic of interfaces that are in no zone", remedy, is_fatal=False))
    return found


def _has_docker(nft: Nftables) -> bool:
    return bool(nft.query("list chain ip filter DOCKER-USER"))


def _legacy_findings() -> list[NetworkFinding]:
    if not _LEGACY_TABLES.exists() or "filter" not in _LEGACY_TABLES.read_text().split():
        return []
    remedy = (
        "look at iptables-legacy -S FORWARD; if its policy is DROP: iptables-legacy -I FORWARD -i 'cl+' -j ACCEPT, and the same with -o"
    )
    return [NetworkFinding("there are legacy iptables rules, which cannot be read from here", remedy, is_fatal=False)]


def _limit_findings() -> list[NetworkFinding]:
    """The neighbour table is shared by all namespaces, and root of a sandbox could fill a small one."""
    if not _NEIGHBOUR_LIMIT.exists() or (limit := int(_NEIGHBOUR_LIMIT.read_text())) >= _MIN_NEIGHBOURS:
        return []
    problem = f"the neighbour table, which sandboxes share with the host, holds {limit} entries only"
    return [NetworkFinding(problem, f"sysctl -w net.ipv4.neigh.default.gc_thresh3={_MIN_NEIGHBOURS}", is_fatal=False)]
