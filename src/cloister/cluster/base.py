"""A node as the control plane and the data plane use it, wherever it runs.

:mod:`cloister.cluster.local` reaches the supervisor of this machine; a cluster puts another implementation in its place. The calls
themselves are declared in :mod:`cloister.nodewire.methods`. No policy here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cloister.errors import CloisterError
from cloister.ids import new_sandbox_id
from cloister.model.node import EndedSandbox
from cloister.model.sandbox import SandboxRecord
from cloister.nodewire.methods import NodeEvent, NodeMethods
from cloister.nodewire.requests import MAX_IDS, AskEnds, ListSandboxes, Reserve

__all__ = ["NodeClient", "NodeListener", "ends_of", "live_sandboxes", "reserve_id"]


class NodeClient(NodeMethods, Protocol):
    """One node. Every call waits some seconds for a node that is restarting, then raises NodeUnreachableError.

    A creation survives a restart of the node: when the call returns or fails, the sandbox exists or does not.
    """


@dataclass(frozen=True)
class NodeListener:
    """Functions that a client calls: ``connected`` after each (re)connection, before waiting calls go on, and ``heard`` for each event.

    Events that happened while there was no connection are lost, except notes: ``connected`` has to ask for the node's state.
    """

    connected: Callable[[NodeClient], Awaitable[None]]
    heard: Callable[[NodeEvent], None]


async def reserve_id(node: NodeClient, template: str, team_id: str) -> str:
    """An id for the team's next creation of ``template``, if possible that of a sandbox made ahead.

    Never fails: without an answer of the node it is a fresh id, and the creation reports the node's trouble.
    """
    try:
        return await node.reserve(Reserve(template, team_id))
    except CloisterError:
        return new_sandbox_id()


async def live_sandboxes(node: NodeClient) -> Sequence[SandboxRecord]:
    """All live sandboxes of the node."""
    found: list[SandboxRecord] = []
    while True:
        page = await node.list(ListSandboxes(after=found[-1].sandbox_id if found else None))
        found += page.sandboxes
        if not page.more:
            return found


async def ends_of(node: NodeClient, sandbox_ids: Sequence[str]) -> Sequence[EndedSandbox]:
    """The ends of these sandboxes that the node knows; there is no entry for the others."""
    told: list[EndedSandbox] = []
    for start in range(0, len(sandbox_ids), MAX_IDS):
        told += await node.ended(AskEnds(tuple(sandbox_ids[start : start + MAX_IDS])))
    return told
