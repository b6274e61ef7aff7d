"""Connections of sandboxes that went directly, by the kernel, and have ended: read from the router's connection table.

Owns which sandbox a connection was of, and the sums of many connections of one sandbox. Must not: keep records; the reader has them.
A connection belongs to the sandbox and the policy that its slot had when it began. Questions to the resolver and connections that the
egress process has (it records them itself) are left out.
Runs in: supervisor; any thread may call. Needs: CAP_NET_ADMIN in the router's namespace.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network

from cloister.linux.ctevents import Ended, EndedConnections
from cloister.model.connection import ConnectionRecord
from cloister.model.network import EgressPolicy
from cloister.network.looked_up import LookedUpNames

__all__ = ["SlotOwners", "take_ended"]

_KEPT_POLICIES = 4
_MOST_EVENTS = 20_000
_MOST_SINGLE = 64
_MOST_KINDS = 64
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}


@dataclass(eq=False)
class _Owner:
    """A sandbox and its policy, from a time on (seconds since the epoch)."""

    since: float
    sandbox_id: str
    policy: EgressPolicy

    @cached_property
    def _allowed(self) -> list[tuple[int, int, str]]:
        networks = [(IPv4Network(entry), entry) for entry in self.policy.allow]
        return [(int(network.network_address), int(network.broadcast_address), entry) for network, entry in networks]

    def rule(self, address: IPv4Address) -> str:
        """The part of the policy that let a connection to the address pass."""
        number = int(address)
        return next((f"allowOut {entry}" for first, last, entry in self._allowed if first <= number <= last), "public")


class SlotOwners:
    """Which sandbox had which slot, under which policy. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owners: dict[int, deque[_Owner]] = {}

    def note(self, slot: int, since: float, sandbox_id: str, policy: EgressPolicy) -> None:
        """The slot is the sandbox's, under the policy, from that time on."""
        with self._lock:
            self._owners.setdefault(slot, deque(maxlen=_KEPT_POLICIES)).append(_Owner(since, sandbox_id, policy))

    def rename(self, slot: int, since: float, policy: EgressPolicy) -> None:
        """The slot's sandbox has another policy from that time on."""
        with self._lock:
            owners = self._owners.get(slot)
            if owners:
                owners.append(_Owner(since, owners[-1].sandbox_id, policy))

    def at(self, slot: int, when: float) -> _Owner | None:
        """Who had the slot then; of the earliest kept if it was before."""
        with self._lock:
            owners = tuple(self._owners.get(slot, ()))
        return next((owner for owner in reversed(owners) if owner.since <= when), None)


def take_ended(
    events: EndedConnections,
    owners: SlotOwners,
    slot_of: Callable[[IPv4Address], int | None],
    own: Iterable[IPv4Address],
    names: LookedUpNames,
) -> tuple[list[ConnectionRecord], int]:
    """The connections that ended since the last call, and the number of those that got lost.

    ``own`` are the router's addresses: connections with them are no sandbox's traffic.
    """
    left_out = frozenset(own)
    sums: dict[str, _Sums] = {}
    for ended in events.read(_MOST_EVENTS):
        slot, connection = slot_of(ended.source), ended.connection
        if slot is None or connection.destination in left_out or connection.answered_by in left_out:
            continue
        owner = owners.at(slot, ended.began_at)
        if owner is not None:
            sums.setdefault(owner.sandbox_id, _Sums()).add(names.named(_record(ended, owner)))
    return [record for one in sums.values() for record in one.records()], events.take_lost()


class _Sums:
    """The connections of one sandbox: the first one by one, the others summed by their kind."""

    def __init__(self) -> None:
        self._single: list[ConnectionRecord] = []
        self._sums: dict[tuple[str, str, int], ConnectionRecord] = {}

    def add(self, record: ConnectionRecord) -> None:
        """Add one connection."""
        if len(self._single) < _MOST_SINGLE:
            self._single.append(record)
            return
        kind = (record.protocol, record.address, record.port)
        if kind not in self._sums and len(self._sums) >= _MOST_KINDS:
            kind, record = ("", "", 0), replace(record, address="", port=0, name=None, is_looked_up=False)
        total = self._sums.get(kind)
        self._sums[kind] = record if total is None else _sum(total, record)

    def records(self) -> list[ConnectionRecord]:
        """All of them."""
        return [*self._single, *self._sums.values()]


def _sum(total: ConnectionRecord, record: ConnectionRecord) -> ConnectionRecord:
    is_same = total.name == record.name
    return replace(
        total,
        name=total.name if is_same else None,
        is_looked_up=total.is_looked_up and is_same,
        duration_s=None,
        count=total.count + record.count,
        sent_bytes=total.sent_bytes + record.sent_bytes,
        received_bytes=total.received_bytes + record.received_bytes,
    )


def _record(ended: Ended, owner: _Owner) -> ConnectionRecord:
    connection = ended.connection
    return ConnectionRecord(
        sandbox_id=owner.sandbox_id,
        at=ended.began_at,
        protocol=_PROTOCOLS.get(connection.protocol, str(connection.protocol)),
        address=str(connection.destination),
        port=connection.port,
        verdict="allowed",
        rule=owner.rule(connection.destination),
        duration_s=max(0.0, ended.ended_at - ended.began_at),
        sent_bytes=ended.sent_bytes,
        received_bytes=ended.received_bytes,
    )
