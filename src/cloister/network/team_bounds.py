"""Bounds of all traffic of a team together, as nftables text and as objects of the kernel. Pure: no I/O.

Owns: the router's maps ``team_*``, the rules that use them, and the names of the objects. A team has an object (a limit or a quota) for
each of its bounds. A map leads from the interface of each of its sandboxes to that object, so a new sandbox costs an element. A
sandbox that is in no map has no such bound. An object cannot get another rate, so its name has the rate in it.
Runs in: supervisor. Needs: no capability.
Source: nft(8) (stateful objects), net/netfilter/nft_limit.c, nft_quota.c and nft_objref.c.

::

    map team_egress    interface -> limit   bytes a second from the team's sandboxes
    map team_ingress   interface -> limit   bytes a second to them
    map team_packets   interface -> limit   packets a second from them
    map team_openings  interface -> limit   new connections a second
    map team_volume    interface -> quota   bytes of both directions in a day
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal

from cloister.linux.nftrules import Message, add_byte_limit, add_packet_limit, add_quota, delete_object
from cloister.model.team_traffic import TeamTraffic
from cloister.network.refusals import because

__all__ = [
    "TEAM_MAPS",
    "TeamObjects",
    "new_object",
    "objects_of",
    "removed_object",
    "team_maps",
    "team_openings",
    "team_packets",
    "team_rate",
    "team_volume",
    "traffic_of",
]

TEAM_MAPS = ("team_egress", "team_ingress", "team_packets", "team_openings", "team_volume")
_BURST_S = 4
"""Seconds of new connections that a team may open at once."""
_NAME = re.compile(r"(team_[a-z]+)_([0-9]+)_day([0-9]+)_(.+)")
TeamObjects = dict[str, str]
"""The names of a team's objects, by map."""


def team_maps() -> str:
    """The maps."""
    return "".join(f"  map {name} {{ type ifname : {'quota' if name == 'team_volume' else 'limit'}; }}\n" for name in TEAM_MAPS)


def team_packets() -> str:
    """The rule for every packet of a sandbox."""
    refuse = f'counter {because("team_too_many_packets")} goto discard comment "team-packet-rate"'
    return f"    limit name iifname map @team_packets {refuse}\n"


def team_openings() -> str:
    """The rule for packets that may open a connection. One is new until its first packet has passed all rules."""
    refuse = f'counter {because("team_too_many_new_connections")} goto refuse comment "team-connection-rate"'
    return f"    ct state new ct status & confirmed == 0 limit name iifname map @team_openings {refuse}\n"


def team_rate(way: Literal["egress", "ingress"]) -> str:
    """The rule that drops packets beyond the team's rate; TCP adapts to the drops."""
    key = "iifname" if way == "egress" else "oifname"
    return f'    limit name {key} map @team_{way} counter drop comment "team-{way}-rate"\n'


def team_volume(way: Literal["egress", "ingress"]) -> str:
    """The rule for packets from sandboxes (``egress``) or to them."""
    if way == "ingress":
        return '    quota name oifname map @team_volume counter drop comment "team-volume-inward"\n'
    return f'    quota name iifname map @team_volume counter {because("team_volume_used_up")} goto refuse comment "team-volume"\n'


def objects_of(traffic: TeamTraffic, day: int) -> TeamObjects:
    """The objects that a team needs on that day (days since the epoch): a new one each day for what is bounded by the day."""
    bounds = {
        "team_egress": traffic.mbit_per_s,
        "team_ingress": traffic.mbit_per_s,
        "team_packets": traffic.packets_per_s,
        "team_openings": traffic.connections_per_s,
        "team_volume": traffic.volume_mib_per_day,
    }
    days = {"team_volume": day}
    return {name: f"{name}_{bound}_day{days.get(name, 0)}_{traffic.team_id}" for name, bound in bounds.items() if bound is not None}


def traffic_of(names: Iterable[str]) -> dict[str, tuple[TeamTraffic, TeamObjects]]:
    """The bounds and objects of teams, by team, from the names of all objects of the table. Others are left out."""
    found: dict[str, TeamObjects] = {}
    for match in filter(None, map(_NAME.fullmatch, names)):
        found.setdefault(match[4], {})[match[1]] = match[0]
    return {team_id: (_traffic(team_id, objects), objects) for team_id, objects in found.items()}


def _traffic(team_id: str, objects: TeamObjects) -> TeamTraffic:
    bounds = {name: int(match[2]) for name, text in objects.items() if (match := _NAME.fullmatch(text))}
    return TeamTraffic(
        team_id=team_id,
        mbit_per_s=bounds.get("team_egress"),
        packets_per_s=bounds.get("team_packets"),
        connections_per_s=bounds.get("team_openings"),
        volume_mib_per_day=bounds.get("team_volume"),
    )


def new_object(table: str, name: str) -> Message:
    """The message that makes the object of that name, which must not exist."""
    match = _NAME.fullmatch(name)
    assert match is not None, name
    return _MAKERS[match[1]](table, name, int(match[2]))


def removed_object(table: str, name: str) -> Message:
    """The message that deletes it."""
    return delete_object(table, name, is_quota=name.startswith("team_volume_"))


def _byte_limit(table: str, name: str, mbit_per_s: int) -> Message:
    per_s = mbit_per_s * 125_000
    return add_byte_limit(table, name, per_s=per_s, burst=min(max(64_000, per_s // 10), 0xFFFFFFFF))


_MAKERS: dict[str, Callable[[str, str, int], Message]] = {
    "team_egress": _byte_limit,
    "team_ingress": _byte_limit,
    "team_packets": lambda table, name, bound: add_packet_limit(table, name, per_s=bound, burst=bound),
    "team_openings": lambda table, name, bound: add_packet_limit(table, name, per_s=bound, burst=_BURST_S * bound),
    "team_volume": lambda table, name, bound: add_quota(table, name, bound << 20),
}
