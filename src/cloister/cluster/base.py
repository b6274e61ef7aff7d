"""A node as the control plane and the data plane use it, wherever it runs.

:mod:`cloister.cluster.local` reaches the supervisor of this machine; a cluster puts another implementation in its place. The calls
themselves are declared in :mod:`cloister.nodewire.methods`. No policy here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cloister.errors import CloisterError, InternalError
from cloister.ids import new_sandbox_id
from cloister.model.node import EndedSandbox
from cloister.model.sandbox import SandboxRecord
from cloister.model.template import Template
from cloister.nodewire.methods import NodeEvent, NodeMethods
from cloister.nodewire.requests import MAX_IDS, AskEnds, ListSandboxes, Reserve

__all__ = ["Fleet", "Need", "NodeClient", "NodeListener", "ends_of", "live_sandboxes", "reserve_id"]

_MOST_SANDBOXES = 100_000
"""Of one node; some thousands is the most that a machine has."""


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


async def reserve_id(node: NodeClient, template: str, team_id: str, *, has_volumes: bool = False) -> str:
    """An id for the team's next creation of ``template``, if possible that of a sandbox made ahead.

    Never fails: without an answer of the node it is a fresh id, and the creation reports the node's trouble.
    """
    try:
        return await node.reserve(Reserve(template, team_id, has_volumes))
    except CloisterError:
        return new_sandbox_id()


async def live_sandboxes(node: NodeClient) -> Sequence[SandboxRecord]:
    """All live sandboxes of the node. Raises: InternalError: the list has no order, and so perhaps no end, or is too long."""
    found: list[SandboxRecord] = []
    last: str | None = None
    while True:
        page = await node.list(ListSandboxes(after=last))
        for record in page.sandboxes:
            if last is not None and record.sandbox_id <= last:
                raise InternalError("the node lists its sandboxes out of order")
            last = record.sandbox_id
        found += page.sandboxes
        if not page.more:
            return found
        if not page.sandboxes or len(found) > _MOST_SANDBOXES:
            raise InternalError("the node lists sandboxes without end")


async def ends_of(node: NodeClient, sandbox_ids: Sequence[str]) -> Sequence[EndedSandbox]:
    """The ends of these sandboxes that the node knows; there is no entry for the others."""
    told: list[EndedSandbox] = []
    for start in range(0, len(sandbox_ids), MAX_IDS):
        told += await node.ended(AskEnds(tuple(sandbox_ids[start : start + MAX_IDS])))
    return told


@dataclass(frozen=True, kw_only=True)
class Need:
    """The needs of a sandbox, a volume or a build."""

    template: str = ""
    """As nodes name it; empty: none."""
    cpu_count: float = 0.0
    mem_mib: int = 0
    disk_mib: int = 0
    node_id: str | None = None
    """The only node that has what it stands on; None: any."""
    has_volumes: bool = False
    """Whether a sandbox mounts volumes: not every runtime can do that in one that was made ahead."""


class Fleet(Protocol):
    """The nodes behind an api process: the one of its machine, or those of a cluster."""

    @property
    def calls(self) -> NodeClient:
        """A client that makes each call on the node that has what the call is about."""

    @property
    def is_cluster(self) -> bool:
        """Whether there may be other nodes than one."""

    def met(self, node_id: str) -> None:
        """A node has said who it is."""

    async def reserve(self, need: Need, team_id: str) -> str:
        """An id for the team's next creation, if possible that of a sandbox made ahead. Never fails: see :func:`reserve_id`."""

    def place(self, sandbox_id: str, need: Need) -> str | None:
        """The node on which to create the sandbox now; None: the only one, which was not reached yet. Raises: NoCapacityError."""

    async def find_place(self, need: Need) -> str:
        """The node on which to make something else. Raises: NoCapacityError, NodeUnreachableError."""

    async def each(self) -> Sequence[tuple[str, NodeClient]]:
        """The nodes that answer now, with their ids. Raises: NodeUnreachableError: the only one does not."""

    async def templates_with(self, node_id: str, node: NodeClient) -> Sequence[Template]:
        """The templates of all nodes, those of this one as it has them now."""
