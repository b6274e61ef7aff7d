"""One node of a cluster as an api process knows it: its link, its latest report, and what was placed on it since.

Pure but for the link. Invariant: a creation counts for its node from the choice of the node until a report that has it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cloister.cluster.base import Need, NodeClient
from cloister.cluster.placement import NodeView, Room
from cloister.cluster.remote import RemoteNode
from cloister.cluster.told import within_its_say
from cloister.model.cluster import ClusterNode
from cloister.model.node import NodeInfo
from cloister.model.team_traffic import TeamTraffic
from cloister.model.template import Template

__all__ = ["LOST_S", "Member"]

LOST_S = 4.5
"""A gate that is silent for so long is lost, with the sandboxes that run there."""
_LEFT_S = 660.0
"""The same for one that said that it stops: longer than the longest stop, which pauses sandboxes (processes/launcher.py)."""
_TICK_S = 1.0
_MIB = 1 << 20
_UNTOLD = {"mem_mib": 1 << 30, "cpu_count": 1 << 10, "live": 0, "max_sandboxes": 1 << 20}
"""For a node of a release that does not say how large it is: it refuses what it has no room for."""
_MOST = 1 << 50
_PROMISED = 16
"""Times that each processor may be promised. Nodes admit any number; placement only spreads."""


@dataclass(frozen=True, slots=True)
class _MadeOf:
    """All that a view depends on. The objects are replaced and never changed."""

    info: NodeInfo | None
    templates: Sequence[Template]
    row: ClusterNode
    changes: int
    is_lost: bool

    def is_same(self, other: _MadeOf) -> bool:
        """Whether a view of the other one is still true."""
        same = self.info is other.info and self.templates is other.templates and self.row is other.row
        return same and self.changes == other.changes and self.is_lost == other.is_lost


class Member:
    """See the module."""

    def __init__(self, row: ClusterNode, link: RemoteNode) -> None:
        self.row = row
        self.link = link
        self.info: NodeInfo | None = None
        self.templates: Sequence[Template] = ()
        self.traffic: tuple[TeamTraffic, ...] | None = None
        """The bounds that it was told; None: nothing yet on this connection."""
        self.silence_s = 0.0
        self._looked_at = time.monotonic()
        self._placed: dict[str, tuple[Need, float | None]] = {}
        """Needs of creations, and when they were over; None: under way."""
        self._changes = 0
        """Of what was placed."""
        self._named: tuple[Sequence[Template], frozenset[str]] = ((), frozenset())
        """The templates, and the names by which sandboxes ask for them."""
        self._view: tuple[_MadeOf, NodeView] | None = None
        """The latest view, and what it was made of."""

    @property
    def is_lost(self) -> bool:
        """Whether it counts as lost."""
        return self.silence_s >= (_LEFT_S if self.link.is_leaving else LOST_S)

    @cached_property
    def calls(self) -> NodeClient:
        """The link's calls, for all of this node's."""
        return within_its_say(self.link.calls, self.row.node_id)

    def look(self) -> None:
        """Measure the silence. A look counts for a second at most: this process may have been stopped itself meanwhile."""
        now = time.monotonic()
        heard = self.link.heard_at > self._looked_at
        self.silence_s = 0.0 if heard else self.silence_s + min(now - self._looked_at, _TICK_S)
        self._looked_at = now

    def learn(self, info: NodeInfo, asked_at: float) -> None:
        """Note a report that was asked for at ``asked_at`` (monotonic)."""
        self.info = info
        self._placed = {one: (need, end) for one, (need, end) in self._placed.items() if end is None or end >= asked_at}
        self._changes += 1

    def count(self, sandbox_id: str, need: Need) -> None:
        """Count a creation."""
        self._placed[sandbox_id] = (need, None)
        self._changes += 1

    def discount(self, sandbox_id: str, *, is_made: bool) -> None:
        """A creation is over."""
        if (placed := self._placed.pop(sandbox_id, None)) is not None and is_made:
            self._placed[sandbox_id] = (placed[0], time.monotonic())
        self._changes += 1

    def view(self) -> NodeView:
        """The node for a choice. The empty name is of its default runtime.

        A choice looks at every node, and most have not changed since the last one: their views are made once.
        """
        is_lost = not self.link.is_connected or self.info is None or self.is_lost
        made_of = _MadeOf(self.info, self.templates, self.row, self._changes, is_lost)
        if self._view is None or not made_of.is_same(self._view[0]):
            self._view = (made_of, self._make_view(is_lost=is_lost))
        return self._view[1]

    def _make_view(self, *, is_lost: bool) -> NodeView:
        info = self.info
        room = {**_UNTOLD, **_bounded({} if info is None else info.room)}
        memory = _bounded({} if info is None else info.memory)
        total = room["mem_mib"]
        free = max(0, memory.get("available", total * _MIB) - memory.get("reserve", 0)) // _MIB
        placed = [need for need, _ in self._placed.values()]
        live, slots, processors = room["live"], room["max_sandboxes"], room["cpu_count"] * _PROMISED
        if self.templates is not self._named[0]:
            names = [name for one in self.templates for name in (one.build_id or one.name, one.name)]
            self._named = (self.templates, frozenset(names))
        return NodeView(
            node_id=self.row.node_id,
            capacity=Room(mem_mib=total, cpu_count=processors, slots=slots),
            reserved=Room(
                mem_mib=total - free + sum(need.mem_mib for need in placed),
                cpu_count=sum(need.cpu_count for need in placed),
                slots=live + len(placed),
            ),
            runtimes=frozenset({"", *(() if info is None else info.runtimes)}),
            is_drained=self.row.is_draining or (info is not None and info.drain is not None),
            is_lost=is_lost,
            layers=self._named[1],
        )


def _bounded(numbers: dict[str, int]) -> dict[str, int]:
    """The numbers of a node's report within bounds in which they can be computed with."""
    return {name: min(max(number, 0), _MOST) for name, number in numbers.items()}
