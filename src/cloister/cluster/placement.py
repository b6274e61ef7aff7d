"""The node for a new sandbox: which nodes have room for it, and in which order to ask them.

Pure: no I/O, no clock; the same nodes, need and random generator give the same answer. The node itself admits or refuses, and the caller
asks the next one after a refusal.

Invariants: a node is chosen only if the sandbox fits into its capacity beside all that is reserved there; a node that has room is never
left out. Many processes choose at once from data that is some creations old. If all took the emptiest node, they would all take the same
one. So each compares a few nodes drawn at random ("the power of two choices": Mitzenmacher, "How Useful Is Old Information?", IEEE TPDS
11(1), 2000).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from random import Random

__all__ = ["Misfit", "Need", "NodeView", "Room", "choose", "misfit", "misfits"]

_CHOICES = 3
"""Nodes that are compared with each other, out of all; as many again out of those that have the template. ``bench/cluster.py`` has figures
for other numbers."""
_BANDS = 20
"""Nodes whose loads lie in the same band count as equally loaded. With bands of 5 %, a node that has the template takes that much more
before another node must fetch it."""
_EPSILON = 1e-9
"""Sums of processor shares, such as ten of 0.1, are not exact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """Resources of a node that sandboxes reserve."""

    mem_mib: float
    cpu_count: float
    """Processors that may be promised; a node that promises more than it has says so here."""
    slots: int
    """Number of sandboxes."""

    def plus(self, other: Room) -> Room:
        """The sum of both."""
        return Room(mem_mib=self.mem_mib + other.mem_mib, cpu_count=self.cpu_count + other.cpu_count, slots=self.slots + other.slots)


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeView:
    """A node as a process of the control plane knows it, perhaps from some creations ago."""

    node_id: str
    capacity: Room
    reserved: Room
    """By its sandboxes and by creations that are under way."""
    runtimes: frozenset[str]
    is_drained: bool = False
    is_lost: bool = False
    layers: frozenset[str] = frozenset()
    """Templates whose layers it has."""
    zygotes: frozenset[str] = frozenset()
    """Templates of which it forks sandboxes, or has some made ahead."""
    teams: Mapping[str, int] = field(default_factory=dict)
    """Sandboxes by team."""

    def reserving(self, need: Need) -> NodeView:
        """The node after ``need`` was placed on it. A process counts its own choices before the node reports them."""
        teams = {**self.teams, need.team_id: self.teams.get(need.team_id, 0) + 1}
        return replace(self, reserved=self.reserved.plus(need.room), teams=teams)


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """The needs of one new sandbox."""

    room: Room
    runtime: str
    template: str
    team_id: str
    excluded: frozenset[str] = frozenset()
    """Nodes that refused it already."""


class Misfit(StrEnum):
    """Why a sandbox is not placed on a node. The value completes "this node ..."."""

    LOST = "is lost"
    DRAINED = "is drained"
    EXCLUDED = "refused the sandbox"
    RUNTIME = "does not have the runtime"
    SLOTS = "has no free slot"
    MEMORY = "has too little memory"
    PROCESSORS = "has too few processors"


def choose(nodes: Sequence[NodeView], need: Need, random: Random) -> list[str]:
    """The ids of all nodes that have room for ``need``, best first; empty if none has.

    The nodes that were drawn come first: the least loaded; then one that has the template's zygote, or its layers; then the one with the
    fewest sandboxes of the team. The others follow in random order.
    """
    fitting = [node for node in nodes if misfit(node, need) is None]
    random.shuffle(fitting)
    drawn, others = fitting[:_CHOICES], fitting[_CHOICES:]
    near = (node for node in others if need.template in node.layers or need.template in node.zygotes)
    drawn += islice(near, _CHOICES)
    drawn.sort(key=lambda node: _rank(node, need))
    order = [node.node_id for node in drawn]
    return order + [node.node_id for node in others if node.node_id not in order]


def misfit(node: NodeView, need: Need) -> Misfit | None:
    """Why ``need`` must not be placed on the node; None: it may."""
    if node.is_lost or node.is_drained:
        return Misfit.LOST if node.is_lost else Misfit.DRAINED
    if node.node_id in need.excluded:
        return Misfit.EXCLUDED
    if need.runtime not in node.runtimes:
        return Misfit.RUNTIME
    return _shortage(node, need)


def misfits(nodes: Sequence[NodeView], need: Need) -> Counter[Misfit]:
    """The number of nodes by the reason why ``need`` does not go there, for the answer to a client whose sandbox has no place."""
    return Counter(reason for node in nodes if (reason := misfit(node, need)) is not None)


def _shortage(node: NodeView, need: Need) -> Misfit | None:
    capacity, reserved, room = node.capacity, node.reserved, need.room
    if reserved.slots + room.slots > capacity.slots:
        return Misfit.SLOTS
    if reserved.mem_mib + room.mem_mib > capacity.mem_mib + _EPSILON:
        return Misfit.MEMORY
    if reserved.cpu_count + room.cpu_count > capacity.cpu_count + _EPSILON:
        return Misfit.PROCESSORS
    return None


def _rank(node: NodeView, need: Need) -> tuple[int, int, int, float]:
    """The lower, the better. The load is that with the new sandbox."""
    load = _load(node.capacity, node.reserved, need.room)
    far = 0 if need.template in node.zygotes else 1 if need.template in node.layers else 2
    return int(load * _BANDS), far, node.teams.get(need.team_id, 0), load


def _load(capacity: Room, reserved: Room, room: Room) -> float:
    """The fullest of the node's resources, as a fraction. The node has room for ``room``: a capacity of 0 is not used."""
    return max(
        (reserved.mem_mib + room.mem_mib) / (capacity.mem_mib or 1),
        (reserved.cpu_count + room.cpu_count) / (capacity.cpu_count or 1),
        (reserved.slots + room.slots) / (capacity.slots or 1),
    )
