"""The placement of sandboxes on simulated nodes, with many api processes that know the nodes from a while ago. No server, no clock.

An api process learns the nodes' state between rounds, and counts its own choices meanwhile. A node admits what it has room for and refuses
the rest, as a real one does. Clients of lost sandboxes create them again at once, before any process knows of the loss.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from cloister.cluster import placement
from cloister.cluster.placement import Need, NodeView, Room, choose, misfit

_RUNTIME = frozenset({"namespace"})
_SIZES = (0.5, 1.0, 1.5)
"""Of nodes, in turn."""
_ROOMS = tuple(Room(mem_mib=mem, cpu_count=cpu, slots=1) for mem, cpu in ((512, 1.0), (512, 1.0), (1024, 2.0), (1024, 2.0), (4096, 4.0)))
_MEAN = Room(mem_mib=1433, cpu_count=2.0, slots=1)
_TEMPLATES = 100
_FIRST_COPIES = 3
"""Nodes that have the layers of a template at the beginning."""
_TEAMS = 50


_View = dict[str, NodeView]
"""The nodes by id, as one api process believes them to be."""


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """The sizes of a run."""

    nodes: int = 200
    sandboxes: int = 10_000
    processes: int = 8
    unheard: int = 2_000
    """Creations of all processes between two reports of a node: the rate times the interval."""
    fill: float = 0.8
    """The part of the cluster that the sandboxes take."""
    choices: int | None = None
    """Nodes that a choice compares; None: as the server does."""


@dataclass(kw_only=True)
class Outcome:
    """The result. Loads are fractions of the fullest resource of a node."""

    loads: list[float]
    refusals: int = 0
    """Calls to nodes that had no room, or were lost."""
    failures: int = 0
    """Sandboxes that found no node, though one had room."""
    with_layers: int = 0
    """Creations on a node that had the template already."""
    creations: int = 0
    choice_us: float = 0.0
    lost: int = 0
    """Sandboxes of lost nodes, which were created again."""

    @property
    def spread(self) -> tuple[float, float, float, float]:
        """Least, mean, most and standard deviation of the loads."""
        return min(self.loads), statistics.mean(self.loads), max(self.loads), statistics.pstdev(self.loads)


@dataclass
class _Cluster:
    nodes: dict[str, NodeView]
    placed: dict[str, list[Need]] = field(default_factory=dict)

    def admit(self, node_id: str, need: Need) -> bool:
        """Whether the node takes the sandbox, as the node itself decides."""
        node = self.nodes[node_id]
        if misfit(node, need) is not None:
            return False
        self.nodes[node_id] = replace(node.reserving(need), layers=node.layers | {need.template})
        self.placed.setdefault(node_id, []).append(need)
        return True


def simulate(wanted: Simulation, *, loses: float = 0.0, seed: int = 1) -> Sequence[Outcome]:
    """Fill the cluster; then, with ``loses``, lose that part of the nodes at once. An outcome for each of the two."""
    random = Random(seed)
    before = placement._CHOICES  # noqa: SLF001 - to compare other numbers with the server's
    placement._CHOICES = before if wanted.choices is None else wanted.choices  # noqa: SLF001 - as above
    try:
        cluster = _Cluster(_nodes(wanted, random))
        outcomes = [_create(cluster, _needs(wanted.sandboxes, random), wanted, random)]
        if loses:
            lost = random.sample(sorted(cluster.nodes), round(len(cluster.nodes) * loses))
            outcomes.append(_lose(cluster, lost, wanted, random))
    finally:
        placement._CHOICES = before  # noqa: SLF001 - as above
    return outcomes


def _nodes(wanted: Simulation, random: Random) -> dict[str, NodeView]:
    each = wanted.sandboxes / wanted.nodes / wanted.fill
    layers: dict[int, set[str]] = {}
    for template in range(_TEMPLATES):
        for number in random.sample(range(wanted.nodes), min(_FIRST_COPIES, wanted.nodes)):
            layers.setdefault(number, set()).add(f"t{template}")
    found = {}
    for number in range(wanted.nodes):
        size = each * _SIZES[number % len(_SIZES)]
        capacity = Room(mem_mib=_MEAN.mem_mib * size, cpu_count=_MEAN.cpu_count * size * 1.2, slots=round(size * 1.2))
        node = NodeView(
            node_id=f"n{number}",
            capacity=capacity,
            reserved=Room(mem_mib=0, cpu_count=0, slots=0),
            runtimes=_RUNTIME,
            layers=frozenset(layers.get(number, ())),
        )
        found[node.node_id] = node
    return found


def _needs(count: int, random: Random) -> list[Need]:
    """Few templates and teams have most of the sandboxes."""
    templates = random.choices(range(_TEMPLATES), [1 / (rank + 1) for rank in range(_TEMPLATES)], k=count)
    teams = random.choices(range(_TEAMS), [1 / (rank + 1) for rank in range(_TEAMS)], k=count)
    return [
        Need(room=random.choice(_ROOMS), runtime="namespace", template=f"t{template}", team_id=f"team{team}")
        for template, team in zip(templates, teams, strict=True)
    ]


def _create(cluster: _Cluster, needs: Sequence[Need], wanted: Simulation, random: Random, views: list[_View] | None = None) -> Outcome:
    """Create all. ``views``: what the processes believe at first; None: the truth."""
    outcome, spent_s = Outcome(loads=[]), 0.0
    for number, need in enumerate(needs):
        if views is None or (number and number % wanted.unheard == 0):
            views = _seen(cluster, wanted.processes)
        view = views[number % wanted.processes]
        began = time.perf_counter()
        order = choose(list(view.values()), need, random)
        spent_s += time.perf_counter() - began
        for node_id in order:
            has_layers = need.template in cluster.nodes[node_id].layers
            if cluster.admit(node_id, need):
                view[node_id] = view[node_id].reserving(need)
                outcome.with_layers += has_layers
                break
            outcome.refusals += 1
        else:
            outcome.failures += any(misfit(node, need) is None for node in cluster.nodes.values())
    outcome.creations = len(needs)
    outcome.choice_us = spent_s / max(1, len(needs)) * 1e6
    outcome.loads = [_load(node) for node in cluster.nodes.values() if not node.is_lost]
    return outcome


def _lose(cluster: _Cluster, lost: Sequence[str], wanted: Simulation, random: Random) -> Outcome:
    """The first creations after the loss are chosen by processes that do not know of it yet."""
    needs = [need for node_id in lost for need in cluster.placed.pop(node_id, [])]
    random.shuffle(needs)
    unaware = _seen(cluster, wanted.processes)
    for node_id in lost:
        cluster.nodes[node_id] = replace(cluster.nodes[node_id], is_lost=True)
    outcome = _create(cluster, needs, wanted, random, unaware)
    outcome.lost = len(needs)
    return outcome


def _seen(cluster: _Cluster, processes: int) -> list[_View]:
    return [dict(cluster.nodes) for _ in range(processes)]


def _load(node: NodeView) -> float:
    capacity, reserved = node.capacity, node.reserved
    return max(reserved.mem_mib / capacity.mem_mib, reserved.cpu_count / capacity.cpu_count, reserved.slots / capacity.slots)
