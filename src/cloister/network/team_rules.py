"""The router's objects of teams whose traffic is bounded, and the sandboxes that are led to them.

Owns: the limits and quotas of team_bounds.py and the elements of the maps ``team_*``. Must not: choose bounds.
Invariant I8: after a restart, bounds and members are read from the kernel. Lock order: the slot's lock (slots.py), then this one.
Runs in: supervisor; any thread may call. Needs: CAP_NET_ADMIN in the router's namespace.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cloister.linux.nftrules import Message, add_references, delete_elements
from cloister.linux.nftsets import ElementSocket, interface_of, name_key
from cloister.model.team_traffic import TeamTraffic
from cloister.network.egress import ROUTER_TABLE
from cloister.network.plan import AddressPlan
from cloister.network.team_bounds import TEAM_MAPS, TeamObjects, new_object, objects_of, removed_object, traffic_of

__all__ = ["TeamRules"]

_AT_ONCE = 200
"""Slots that one transaction moves to other objects: a message to the kernel has a bounded length."""
_DAY_S = 86_400


@dataclass
class _Team:
    """A team with bounds."""

    traffic: TeamTraffic
    objects: TeamObjects


@dataclass
class _Member:
    """A slot's team, and the objects that the maps lead its interface to."""

    team_id: str
    objects: TeamObjects = field(default_factory=dict)


class TeamRules:
    """The teams' own objects. Thread-safe."""

    def __init__(self, elements: ElementSocket, plan: AddressPlan, today: Callable[[], int] = lambda: int(time.time() // _DAY_S)) -> None:
        self._elements = elements
        self._plan = plan
        self._today = today
        self._lock = threading.Lock()
        self._teams: dict[str, _Team] = {}
        self._members: dict[int, _Member] = {}

    def load(self) -> None:
        """Read the bounds and members that the kernel has. Call it once the ruleset is there."""
        with self._lock:
            found = traffic_of(self._elements.objects(ROUTER_TABLE))
            self._teams = {team_id: _Team(traffic, objects) for team_id, (traffic, objects) in found.items()}
            owners = {name: team_id for team_id, team in self._teams.items() for name in team.objects.values()}
            for map_name in TEAM_MAPS:
                for key, name in self._elements.references(ROUTER_TABLE, map_name):
                    slot = self._plan.slot_of(interface_of(key))
                    if slot is not None:
                        self._members.setdefault(slot, _Member(owners.get(name, ""))).objects[map_name] = name

    def slots(self) -> set[int]:
        """The slots that a map leads to an object."""
        with self._lock:
            return {slot for slot, member in self._members.items() if member.objects}

    @contextmanager
    def joining(self, slot: int, team_id: str) -> Iterator[list[Message]]:
        """The change that makes the slot a sandbox of the team. The caller sends it within the block."""
        with self._lock:
            member = self._members.get(slot) or _Member("")
            team = self._teams.get(team_id)
            wanted = {} if team is None else team.objects
            yield list(self._moves({slot: member.objects}, wanted))
            self._members[slot] = _Member(team_id, dict(wanted))

    @contextmanager
    def leaving(self, slot: int) -> Iterator[list[Message]]:
        """The change after which the slot is no team's. The caller sends it within the block."""
        with self._lock:
            member = self._members.get(slot)
            yield [] if member is None else list(self._moves({slot: member.objects}, {}))
            self._members.pop(slot, None)

    def bound(self, all_traffic: Collection[TeamTraffic]) -> None:
        """Bound these teams, and no others, from now on; for live sandboxes too. A count goes on while its bound stays.

        Raises: IsolationError; the teams that are not done yet keep their former bounds.
        """
        wanted = {traffic.team_id: traffic for traffic in all_traffic if traffic.is_bounded}
        with self._lock:
            for team_id in self._teams.keys() - wanted.keys():
                self._replace(TeamTraffic(team_id=team_id))
            for traffic in wanted.values():
                self._replace(traffic)

    def begin_day(self) -> None:
        """Let each team have its volume of the day. Cheap; call it periodically. Raises: IsolationError."""
        with self._lock:
            for team in list(self._teams.values()):
                self._replace(team.traffic)

    def _replace(self, traffic: TeamTraffic) -> None:
        former = self._teams.get(traffic.team_id, _Team(traffic, {})).objects
        objects = objects_of(traffic, self._today())
        if objects != former:
            existing = set(self._elements.objects(ROUTER_TABLE))  # an earlier change may have failed halfway
            self._elements.change(also=[new_object(ROUTER_TABLE, name) for name in objects.values() if name not in existing])
            slots = [slot for slot, member in self._members.items() if member.team_id == traffic.team_id]
            for at in range(0, len(slots), _AT_ONCE):
                some = {slot: self._members[slot].objects for slot in slots[at : at + _AT_ONCE]}
                self._elements.change(also=list(self._moves(some, objects)))
                self._members.update({slot: _Member(traffic.team_id, dict(objects)) for slot in some})
            self._elements.change(also=[removed_object(ROUTER_TABLE, name) for name in former.values() if name not in objects.values()])
        if objects:
            self._teams[traffic.team_id] = _Team(traffic, objects)
        else:
            self._teams.pop(traffic.team_id, None)

    def _moves(self, slots: dict[int, TeamObjects], wanted: TeamObjects) -> Iterator[Message]:
        """The messages after which the maps lead these slots, with the objects that they have now, to the ``wanted`` ones."""
        for map_name in TEAM_MAPS:
            name = wanted.get(map_name)
            moved = [slot for slot, objects in slots.items() if objects.get(map_name) != name]
            if left := [slot for slot in moved if map_name in slots[slot]]:
                yield delete_elements(ROUTER_TABLE, map_name, self._keys(left))
            if name is not None and moved:
                yield add_references(ROUTER_TABLE, map_name, self._keys(moved), name)

    def _keys(self, slots: Iterable[int]) -> list[bytes]:
        return [name_key(self._plan.interface(slot)) for slot in slots]
