"""What the policy refused, for each sandbox: kept in nftables sets beside the rules that refuse, and read all at once.

Owns: the sets ``refusals*`` and the chains ``note*`` of both rulesets, and the reading of them. Must not: decide what is refused.
Invariant I4: a rule that refuses jumps to ``note`` and refuses then, whatever became of the note. An update of a set that is full ends its
*rule* only, so each stands in a rule of its own in a chain that gives no verdict; ``tests/security`` and the rules' tests fill the sets.
Invariant I6: a source (a sandbox's interface in the router, its address at the host) may add ``_BURST`` elements at once and one a second;
what is beyond is one number. No packet that passes ever comes here.

::

    refusals_port   source . destination . protocol . port . reason    packets of TCP and UDP
    refusals_plain  source . destination . protocol . reason           packets of other protocols
    refusals_six    source . destination . protocol . port . reason    packets of TCP and UDP by IPv6 (in the router only)
    refusals_more   source                                             packets of what the sets above have no room for
    refusals_rate   source                                             how much it may still add
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from cloister.errors import IsolationError
from cloister.linux.nftables import Nftables

__all__ = ["REASONS", "Refusal", "RefusalSets", "Target", "because", "note_chains", "note_sets"]

REASONS = ("no_internet", "not_public", "neighbour", "gateway", "host", "spoofed_source", "too_many_connections", "ipv6")
"""Why something was refused; in the kernel the packet's mark, counted from 1. No packet that has one of these marks goes further."""

_BURST = 16
_SOURCES = 8192
_ELEMENTS = 16384
_LISTS = ("port", "plain", "six")


class Target(NamedTuple):
    """What a sandbox tried; port 0 where the protocol has none."""

    destination: str
    protocol: str
    port: int
    reason: str


@dataclass(frozen=True)
class Refusal:
    """So many packets to ``target`` were refused since the last look. ``target`` None: to others, which the sets had no room for."""

    slot: int
    target: Target | None
    packets: int


def because(reason: str) -> str:
    """The statement that marks a packet with the reason of its refusal."""
    return f"meta mark set {REASONS.index(reason) + 1}"


def note_sets(source_type: str) -> str:
    """The sets, for sources of that type. They end by themselves when nobody reads them for long."""
    kept = f"size {_ELEMENTS}; flags dynamic,timeout; timeout 5m;"
    sources = f"type {source_type}; size {_SOURCES}; flags dynamic;"
    return f"""\
  set refusals_port {{ type {source_type} . ipv4_addr . inet_proto . inet_service . mark; {kept} }}
  set refusals_plain {{ type {source_type} . ipv4_addr . inet_proto . mark; {kept} }}
  set refusals_six {{ type {source_type} . ipv6_addr . inet_proto . inet_service . mark; {kept} }}
  set refusals_more {{ {sources} }}
  set refusals_rate {{ {sources} }}
"""


def note_chains(source: str, *, ipv6: bool) -> str:
    """The chains; ``source`` is the expression that names a packet's source.

    An element that is there is counted by looking it up. ICMP errors are left out: no program asked for them.
    """
    chains = f"""\
  chain note {{
    {"meta nfproto ipv6 goto note_six" if ipv6 else "meta nfproto ipv6 return"}
    meta l4proto {{ tcp, udp }} goto note_port
    icmp type {{ destination-unreachable, source-quench, redirect, time-exceeded, parameter-problem }} return
{_note_into("plain", source, f"{source} . ip daddr . meta l4proto . meta mark")}  }}
  chain note_port {{
{_note_into("port", source, f"{source} . ip daddr . meta l4proto . th dport . meta mark")}  }}
"""
    if ipv6:
        chains += f"""\
  chain note_six {{
    meta l4proto != {{ tcp, udp }} return
{_note_into("six", source, f"{source} . ip6 daddr . meta l4proto . th dport . meta mark")}  }}
"""
    return f"""{chains}\
  chain note_more {{
    update @refusals_more {{ {source} counter }}
  }}
"""


def _note_into(name: str, source: str, element: str) -> str:
    return f"""\
    {element} @refusals_{name} return
    update @refusals_rate {{ {source} limit rate over 1/second burst {_BURST} packets }} goto note_more
    add @refusals_{name} {{ {element} counter }} return
    goto note_more
"""


class RefusalSets:
    """The sets of one table; to be used on the thread of its namespace, like the :class:`Nftables` it is given."""

    def __init__(self, nft: Nftables, table: str, slot_of: Callable[[str], int | None]) -> None:
        self._nft = nft
        self._table = table
        self._slot_of = slot_of

    def take(self) -> list[Refusal]:
        """What was refused since the last call, taken out of the sets. Sources that are no sandbox's are passed over.

        Elements are deleted by name, so that one which comes meanwhile is there the next time; packets that are counted on a listed one
        within this millisecond are lost.
        """
        found: list[Refusal] = []
        kept = self._list()
        for values in kept.values():
            for value, packets in values:
                slot = self._slot_of(value[0])
                if slot is not None:
                    found.append(Refusal(slot, _target(value), packets))
        self._delete({name: [value for value, _ in values] for name, values in kept.items()})
        return found

    def sources(self) -> set[str]:
        """Whose refusals are kept."""
        return {str(value[0]) for values in self._list().values() for value, _ in values}

    def forget(self, sources: Collection[str]) -> None:
        """Take out what is kept of them, so that the next sandboxes with these names inherit nothing, the used allowance included."""
        listed = {name: [value for value, _ in values if value[0] in sources] for name, values in self._list().items()}
        self._delete(listed)
        if sources:
            place = f"element inet {self._table} refusals_rate {{ {', '.join(sources)} }}"
            self._nft.run(f"add {place}\ndelete {place}")

    def _list(self) -> dict[str, list[tuple[list[Any], int]]]:
        return {name: self._nft.counted("inet", self._table, f"refusals_{name}") for name in (*_LISTS, "more")}

    def _delete(self, listed: dict[str, list[list[Any]]]) -> None:
        """All of them in one transaction. One that ended by itself meanwhile makes it fail: then the sets are emptied."""
        places = {f"inet {self._table} refusals_{name}": values for name, values in listed.items() if values}
        lines = [f"delete element {place} {{ {', '.join(map(_text, values))} }}" for place, values in places.items()]
        if not lines:
            return
        try:
            self._nft.run("\n".join(lines))
        except IsolationError:
            self._nft.run("\n".join(f"flush set {place}" for place in places))


def _text(value: list[Any]) -> str:
    return " . ".join(str(part) for part in value)


def _target(value: list[Any]) -> Target | None:
    """An element of the sets as :class:`Target`; None for one of ``refusals_more``."""
    if len(value) == 1:
        return None
    _, destination, protocol, *port, mark = value
    reason = REASONS[mark - 1] if 0 < mark <= len(REASONS) else "other"
    return Target(str(destination), str(protocol), int(port[0]) if port else 0, reason)
