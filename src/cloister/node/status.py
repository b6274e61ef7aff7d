"""The node's answer to ``ping``: version, instance and counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from cloister import __version__
from cloister.model.node import CreationTimes, NodeInfo
from cloister.node.descriptors import DescriptorCounts
from cloister.node.drain import Drain
from cloister.node.stop_plan import OnStop
from cloister.template.freshness import Freshness, read_freshness
from cloister.template.layers import LayerStore

__all__ = ["Creations", "NodeFacts", "NodeStatus"]

_Counts = Callable[[], dict[str, int]]


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """The fields that do not change while the supervisor runs; see :class:`NodeInfo`."""

    node_id: str
    instance: int
    on_stop: str
    started_at: float = 0.0
    runtimes: tuple[str, ...] = ()


class Creations(Protocol):
    """Counts creations for clients since the supervisor started; see :class:`NodeInfo`."""

    def counts(self) -> dict[str, int]:
        """Creations by way."""
        ...

    def times(self) -> tuple[CreationTimes, ...]:
        """How long they took."""
        ...

    def pool_counts(self) -> dict[str, int]:
        """The sandboxes made ahead."""
        ...


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """The sources of the counts."""

    facts: NodeFacts
    creations: Creations
    zygotes: _Counts
    builds: _Counts
    disk: _Counts
    memory: _Counts
    paused: _Counts
    changes: _Counts
    saves_memory: Callable[[], tuple[str, ...]] = tuple
    connections: _Counts = dict
    limits_met: _Counts = dict
    descriptors: DescriptorCounts = field(default_factory=DescriptorCounts)
    room: _Counts = dict
    drain: Drain
    store: LayerStore | None = None
    """Has the outcome of the latest check of the templates for updates."""

    async def info(self) -> NodeInfo:
        """The counts now."""
        descriptors, limits = await self.descriptors.read()
        freshness = await asyncio.to_thread(self._freshness)
        return NodeInfo(
            version=__version__,
            **{**vars(self.facts), "on_stop": self.drain.action_of_stop(OnStop(self.facts.on_stop))},
            creations=self.creations.counts(),
            creation_times=self.creations.times(),
            pool=self.creations.pool_counts(),
            zygotes=self.zygotes(),
            builds=self.builds(),
            disk=self.disk(),
            memory=self.memory(),
            paused=self.paused(),
            changes=self.changes(),
            saves_memory=self.saves_memory(),
            connections=self.connections(),
            limits_met=self.limits_met(),
            descriptors=descriptors,
            descriptor_limits=limits,
            room=self.room(),
            drain=self.drain.state,
            outdated={name: len(one.packages) for name, one in freshness.items()},
            updates_checked_at=max((one.checked_at for one in freshness.values()), default=0.0),
        )

    def _freshness(self) -> dict[str, Freshness]:
        return {} if self.store is None else read_freshness(self.store.root, self.store.templates())
