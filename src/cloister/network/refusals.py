"""Refused packets of each sandbox: counted in nftables sets beside the rules that refuse them, and read all at once.

Owns: the sets ``refusals*`` and the chains ``note*`` of both rulesets, and their reading. Must not: decide which packets are refused.
Invariant I4: a refusing rule jumps to ``note`` and then refuses, whether or not the note was taken. A full set ends the *rule* that
updates it, so each update is a rule of its own in a chain without a verdict. Tests fill the sets.
Invariant I6: a source (a sandbox's interface in the router, its address at the host) may add ``_BURST`` elements at once and one a
second; further packets only count in one number. Packets that pass never reach these chains.

::

    refusals_port   source . destination . protocol . port . reason    packets of TCP and UDP
    refusals_plain  source . destination . protocol . reason           packets of other protocols
    refusals_six    source . destination . protocol . port . reason    packets of TCP and UDP by IPv6 (in the router only)
    refusals_more   source                                             packets that the sets above have no room for
    refusals_rate   source                                             how many elements it may still add

Runs in: supervisor; any thread may call. Needs: CAP_NET_ADMIN.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import NamedTuple

from cloister.errors import IsolationError
from cloister.linux.nftrules import delete_elements, flush_set
from cloister.linux.nftsets import Element, ElementSocket, interface_of, name_key

__all__ = ["REASONS", "Refusal", "RefusalSets", "Target", "because", "note_chains", "note_sets"]

REASONS = (
    "no_internet",
    "not_public",
    "neighbour",
    "gateway",
    "host",
    "spoofed_source",
    "too_many_connections",
    "ipv6",
    "host_network",
    "denied",
    "unproxied",
    "too_many_packets",
    "too_many_new_connections",
    "volume_used_up",
    "team_too_many_packets",
    "team_too_many_new_connections",
    "team_volume_used_up",
)
"""Why a packet was refused. In the kernel the reason is the packet's mark, counted from 1; no packet with such a mark passes."""

_BURST = 16
_SOURCES = 8192
_ELEMENTS = 16384
_LISTS = ("port", "plain", "six")
_NAME_BYTES = 16
_DELETED_AT_ONCE = 500
_PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 58: "ipv6-icmp", 132: "sctp"}


class Target(NamedTuple):
    """The destination of a refused packet; port 0 where the protocol has no ports."""

    destination: str
    protocol: str
    port: int
    reason: str


@dataclass(frozen=True)
class Refusal:
    """The number of packets to ``target`` refused since the last reading; None: to targets that the sets had no room for."""

    slot: int
    target: Target | None
    packets: int


def because(reason: str) -> str:
    """The statement that marks a packet with the reason of its refusal."""
    return f"meta mark set {REASONS.index(reason) + 1}"


def note_sets(source_type: str) -> str:
    """The sets, for sources of that type. Elements expire if they are not read for five minutes."""
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

    A lookup of an existing element counts the packet. ICMP errors are left out: the kernel sends them, not a program.
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
    """The sets of one table, read and emptied without a look at the rest of the ruleset. Any thread may use it."""

    def __init__(self, elements: ElementSocket, table: str, source_bytes: int, slot_of: Callable[[str], int | None]) -> None:
        """``elements`` is of the table's namespace. ``source_bytes``: sources are interface names (16) or addresses (4)."""
        self._elements = elements
        self._table = table
        self._source_bytes = source_bytes
        self._slot_of = slot_of

    def take(self) -> list[Refusal]:
        """Take the refusals since the last call out of the sets. Skips sources that are no sandbox's.

        Elements are deleted by name, so an element that is added meanwhile stays for the next call. Packets that are counted between the
        reading and the deletion, within about a millisecond, are lost.
        """
        found: list[Refusal] = []
        if not self._keys("rate"):  # every source is entered there first: a look at one set, as a rule, instead of four
            return found
        for name in (*_LISTS, "more"):
            counted = self._elements.counted(self._table, f"refusals_{name}")
            for key, packets in counted:
                slot = self._slot_of(self._source(key))
                if slot is not None:
                    found.append(Refusal(slot, self._target(name, key), packets))
            self._delete(name, [key for key, _ in counted])
        return found

    def sources(self) -> set[str]:
        """The sources that have refusals."""
        return {self._source(key) for name in (*_LISTS, "more") for key in self._keys(name)}

    def forget(self, sources: Collection[str]) -> None:
        """Delete the refusals and the used rate of these sources, so that the next sandboxes with these names inherit none."""
        for name in (*_LISTS, "more"):
            self._delete(name, [key for key in self._keys(name) if self._source(key) in sources])
        if sources:
            self._elements.change(delete=[Element(self._table, "refusals_rate", self._key(source)) for source in sources])

    def _keys(self, name: str) -> list[bytes]:
        return self._elements.keys(self._table, f"refusals_{name}")

    def _delete(self, name: str, keys: Sequence[bytes]) -> None:
        """Delete the elements. It fails if one of them expired meanwhile: then the set is emptied."""
        place = f"refusals_{name}"
        for at in range(0, len(keys), _DELETED_AT_ONCE):
            try:
                self._elements.change(also=[delete_elements(self._table, place, keys[at : at + _DELETED_AT_ONCE])])
            except IsolationError:
                self._elements.change(also=[flush_set(self._table, place)])
                return

    def _key(self, source: str) -> bytes:
        return name_key(source) if self._source_bytes == _NAME_BYTES else IPv4Address(source).packed

    def _source(self, key: bytes) -> str:
        return interface_of(key) if self._source_bytes == _NAME_BYTES else str(IPv4Address(key[:4]))

    def _target(self, name: str, key: bytes) -> Target | None:
        """The target of a set's element; None for an element of ``refusals_more``. Each part of a key is padded to four bytes."""
        if name == "more":
            return None
        parts = key[self._source_bytes :]
        size = 16 if name == "six" else 4
        destination = str(ip_address(parts[:size]))
        protocol, port = parts[size], int.from_bytes(parts[size + 4 : size + 6], "big") if name != "plain" else 0
        mark = int.from_bytes(parts[-4:], sys.byteorder)
        reason = REASONS[mark - 1] if 0 < mark <= len(REASONS) else "other"
        return Target(destination, _PROTOCOLS.get(protocol, str(protocol)), port, reason)
