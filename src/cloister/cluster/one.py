"""The fleet of one machine: its node, and nothing to choose."""

from __future__ import annotations

from collections.abc import Sequence

from cloister.cluster.base import Need, NodeClient, reserve_id
from cloister.model.template import Template

__all__ = ["OneNode"]


class OneNode:
    """See :class:`~cloister.cluster.base.Fleet`."""

    is_cluster = False

    def __init__(self, calls: NodeClient) -> None:
        self.calls = calls
        self.node_id: str | None = None
        """None until the first connection to the node."""

    def met(self, node_id: str) -> None:
        """See the protocol; likewise below."""
        self.node_id = node_id

    async def reserve(self, need: Need, team_id: str) -> str:
        """See the protocol."""
        return await reserve_id(self.calls, need.template, team_id, has_volumes=need.has_volumes)

    def place(self, sandbox_id: str, need: Need) -> str | None:  # noqa: ARG002 - there is nothing to choose
        """See the protocol."""
        return self.node_id

    async def find_place(self, need: Need) -> str:  # noqa: ARG002 - as above
        """See the protocol."""
        return (await self.calls.ping()).node_id

    async def each(self) -> Sequence[tuple[str, NodeClient]]:
        """See the protocol."""
        return [((await self.calls.ping()).node_id, self.calls)]

    async def templates_with(self, node_id: str, node: NodeClient) -> Sequence[Template]:  # noqa: ARG002 - as above
        """See the protocol."""
        return await node.templates()
