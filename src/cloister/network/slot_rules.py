"""The router's objects of single sandboxes with lists, names, rules or a proxy: a chain, a set and map elements for each.

Owns: the chains and sets ``s<slot>``, and the elements of the maps ``listed``, ``redirected`` and ``asking``. Must not: choose what is
refused (policy_rules.py does).
Invariant I4: one transaction replaces all of a slot, so no packet sees a half of two policies in one chain.
Invariant I8: what exists is read from the kernel. A slot has a chain and a set exactly when it has an element in ``listed``.
Runs in: supervisor; any thread may call. Needs: CAP_NET_ADMIN in the router's namespace.
"""

from __future__ import annotations

from collections.abc import Iterator

from cloister.linux.nftrules import (
    Message,
    Verdict,
    add_chain,
    add_elements,
    add_interval_set,
    add_intervals,
    add_rule,
    delete_chain,
    delete_elements,
    delete_set,
    flush_chain,
    flush_set,
    from_interface,
    in_set,
    to_interface,
    verdict,
)
from cloister.linux.nftsets import Element, ElementSocket, name_key
from cloister.network.egress import ROUTER_TABLE
from cloister.network.plan import AddressPlan
from cloister.network.policy_rules import PolicyRules

__all__ = ["SlotRules"]

_MAPS = ("redirected", "asking")


class SlotRules:
    """The slots' own objects. The methods return messages; the caller sends them, with others, as one transaction."""

    def __init__(self, elements: ElementSocket, plan: AddressPlan) -> None:
        self._elements = elements
        self._plan = plan

    def has(self, slot: int) -> bool:
        """Whether the slot has objects of its own."""
        return self._elements.has(self._element("listed", slot))

    def replacement(self, slot: int, rules: PolicyRules) -> list[Message]:
        """The change after which ``rules`` are the slot's only ones."""
        exists = self.has(slot)
        if rules.is_empty:
            return self._removal(slot) if exists else []
        return [*self._base(slot, is_new=not exists), *self._lists(slot, rules), *self._verdicts(slot, rules, exists=exists)]

    def removal(self, slot: int) -> list[Message]:
        """The removal of the slot's objects; empty if it has none."""
        return self._removal(slot) if self.has(slot) else []

    def _base(self, slot: int, *, is_new: bool) -> Iterator[Message]:
        name = self._plan.own_name(slot)
        if not is_new:
            yield flush_chain(ROUTER_TABLE, name)
            yield flush_set(ROUTER_TABLE, name)
            return
        yield add_interval_set(ROUTER_TABLE, name, slot)
        yield add_chain(ROUTER_TABLE, name)
        yield add_elements(ROUTER_TABLE, "listed", [self._key(slot)], Verdict(name, is_jump=True))

    def _lists(self, slot: int, rules: PolicyRules) -> Iterator[Message]:
        name, uplink = self._plan.own_name(slot), self._plan.router_interface
        for chain in rules.chains:
            yield add_rule(ROUTER_TABLE, name, [verdict(Verdict(chain, is_jump=True))])
        if rules.refused:
            yield from add_intervals(ROUTER_TABLE, name, rules.refused)
            outward = [*to_interface(uplink), *in_set(name, destination=True), verdict(Verdict("denied"))]
            inward = [*from_interface(uplink), *in_set(name, destination=False), verdict(Verdict("denied_inward"))]
            yield add_rule(ROUTER_TABLE, name, outward)
            yield add_rule(ROUTER_TABLE, name, inward)

    def _verdicts(self, slot: int, rules: PolicyRules, *, exists: bool) -> Iterator[Message]:
        if exists:
            yield from self._forget_verdicts(slot)
        for name, chain in zip(_MAPS, (rules.redirected, rules.asking), strict=True):
            if chain is not None:
                yield add_elements(ROUTER_TABLE, name, [self._key(slot)], Verdict(chain))

    def _forget_verdicts(self, slot: int) -> Iterator[Message]:
        """The kernel does not change an element's verdict, but deletes it and adds another in one transaction."""
        for name in _MAPS:
            if self._elements.has(self._element(name, slot)):
                yield delete_elements(ROUTER_TABLE, name, [self._key(slot)])

    def _removal(self, slot: int) -> list[Message]:
        name = self._plan.own_name(slot)
        return [
            *self._forget_verdicts(slot),
            delete_elements(ROUTER_TABLE, "listed", [self._key(slot)]),
            flush_chain(ROUTER_TABLE, name),
            delete_chain(ROUTER_TABLE, name),
            delete_set(ROUTER_TABLE, name),
        ]

    def _element(self, name: str, slot: int) -> Element:
        return Element(ROUTER_TABLE, name, self._key(slot))

    def _key(self, slot: int) -> bytes:
        return name_key(self._plan.interface(slot))
