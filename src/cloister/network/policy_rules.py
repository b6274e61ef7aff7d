"""The router's rules for one sandbox's egress policy, beyond those for all sandboxes. Pure: no I/O.

Owns: the translation of an :class:`~cloister.model.network.EgressPolicy` into intervals of refused addresses and into elements of the
router's verdict maps. Must not: change the kernel (slot_rules.py does).
Invariant I4: what a policy does not allow is in one of these; the rules for all sandboxes are checked before.

::

    map listed      interface -> jump s<slot>     the sandbox's own chain: its refused addresses, and what the egress process must see
    map redirected  interface -> goto gate_…  which new connections go to the egress process
    map asking      interface -> goto …           sandboxes that may not ask the resolver, or only through the egress process

A sandbox without lists, names, rules and proxy has none of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from socket import inet_aton
from typing import Literal

from cloister.linux.conntrack import TrackedConnection
from cloister.model.network import EgressPolicy
from cloister.network.gate import DNS_PORT, TCP_PORT

__all__ = ["CHAINS", "Interval", "PolicyRules", "intervals_of", "policy_rules", "refused_intervals"]

Interval = tuple[int, int]
"""First and last address."""
_ALL: Interval = (0, 0xFFFFFFFF)
_TCP = 6
_NAMES_PORT, _WEB_PORTS = 53, (80, 443)

CHAINS = ("only_web_by_gate", "only_names_by_gate", "only_by_gate")
"""Chains for the connections of a sandbox that did not go to the egress process but must: see egress.py."""


@dataclass(frozen=True)
class PolicyRules:
    """The router's rules for one sandbox."""

    refused: tuple[Interval, ...] = ()
    """Addresses that are refused, in order and apart from one another."""
    chains: tuple[str, ...] = ()
    """Those of :data:`CHAINS` that its own chain begins with."""
    redirected: str | None = None
    """The chain of its new connections in the map ``redirected``."""
    asking: Literal["no_questions", "questions_by_gate"] | None = None
    """The chain of its questions to the resolver in the map ``asking``."""

    @property
    def is_empty(self) -> bool:
        """Whether the rules for all sandboxes are enough."""
        return self == PolicyRules()

    def refuses(self, address: IPv4Address) -> bool:
        """Whether the lists refuse the address."""
        at = bisect_right(self.refused, (int(address), _ALL[1])) - 1
        return at >= 0 and self.refused[at][1] >= int(address)

    def keeps(self, connection: TrackedConnection, gateway: IPv4Address) -> bool:
        """Whether an open connection of the sandbox may go on as it is: it is allowed, and new ones like it would go the same way."""
        by_names = self.redirected is not None and self.redirected.startswith("gate_names")
        if connection.answered_by == gateway and connection.answered_from == DNS_PORT:
            return by_names
        if connection.answered_by == gateway and connection.answered_from == TCP_PORT:
            return self.redirected is not None or not self.refuses(connection.destination)
        if connection.destination == gateway:
            return self.asking is None
        if "only_by_gate" in self.chains or (by_names and connection.port == _NAMES_PORT):
            return False
        if "only_web_by_gate" in self.chains and connection.protocol == _TCP and connection.port in _WEB_PORTS:
            return False
        return not self.refuses(connection.destination)


def policy_rules(policy: EgressPolicy) -> PolicyRules:
    """The rules that enforce ``policy``. A closed policy needs none: its sandbox is not ``online``."""
    if policy.is_closed:
        return PolicyRules()
    asks_gate = bool(policy.names)
    asking: Literal["no_questions", "questions_by_gate"] | None = "questions_by_gate" if asks_gate else None
    if not policy.resolves:
        asking = "no_questions"
    if not policy.needs_gate:
        return PolicyRules(refused_intervals(policy), asking=asking)
    redirected = f"gate_{'names_' * asks_gate}{'tcp' if policy.proxy else 'web'}"
    if policy.proxy:
        return PolicyRules(chains=("only_by_gate",), redirected=redirected, asking=asking)
    chains = (*(["only_names_by_gate"] if asks_gate else []), *(["only_web_by_gate"] if policy.rules else []))
    return PolicyRules(refused_intervals(policy), chains, redirected, asking)


def refused_intervals(policy: EgressPolicy) -> tuple[Interval, ...]:
    """The addresses that the policy's lists refuse, allow before deny."""
    denied = [_ALL] if policy.denies_all else intervals_of(policy.deny)
    return tuple(_without(denied, intervals_of(policy.allow)))


def intervals_of(networks: Iterable[str]) -> list[Interval]:
    """The addresses of the networks, in order; those that overlap or touch are merged.

    The model has checked the form. Without the classes of ``ipaddress``, 1,000 networks take 1 ms instead of 15.
    """
    found: list[Interval] = []
    for first, last in sorted(map(_interval, networks)):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def _interval(network: str) -> Interval:
    address, _, prefix = network.partition("/")
    first = int.from_bytes(inet_aton(address), "big")
    return first, first + (1 << (32 - int(prefix))) - 1


def _without(these: Iterable[Interval], those: Iterable[Interval]) -> list[Interval]:
    """``these`` without ``those``; both in order."""
    taken = list(those)
    found: list[Interval] = []
    at = 0
    for first, last in these:
        begin = first
        while at < len(taken) and taken[at][1] < begin:
            at += 1
        behind = at
        while behind < len(taken) and taken[behind][0] <= last:
            if taken[behind][0] > begin:
                found.append((begin, taken[behind][0] - 1))
            begin = taken[behind][1] + 1
            behind += 1
        if begin <= last:
            found.append((begin, last))
        at = max(at, behind - 1)
    return found
