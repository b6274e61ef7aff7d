"""The reports of several nodes as one: counts are added up. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cloister.model.node import NodeInfo

__all__ = ["summed"]

_COUNTS = ("creations", "zygotes", "builds", "disk", "memory", "paused", "changes", "connections", "pool", "limits_met", "room")


def summed(infos: Sequence[NodeInfo]) -> NodeInfo:
    """One report of all nodes; there is at least one. Times of creations, and what only one host has, are left out."""
    first = infos[0]
    counts: dict[str, Any] = {name: _add([getattr(info, name) for info in infos]) for name in _COUNTS}
    return replace(
        first,
        **counts,
        node_id="cluster" if len(infos) > 1 else first.node_id,
        saves_memory=tuple(name for name in first.saves_memory if all(name in info.saves_memory for info in infos)),
        runtimes=tuple(name for name in first.runtimes if all(name in info.runtimes for info in infos)),
        creation_times=first.creation_times if len(infos) == 1 else (),
        drain=first.drain if all(info.drain is not None for info in infos) else None,
        descriptors=first.descriptors if len(infos) == 1 else {},
        descriptor_limits=first.descriptor_limits if len(infos) == 1 else {},
        started_at=min(info.started_at for info in infos),
    )


def _add(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    total = Counter[str]()
    for one in counts:
        total.update(one)
    return dict(total)
