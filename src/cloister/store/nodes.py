"""The store's interface for the nodes of a cluster, the same for every database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cloister.model.cluster import ClusterNode

__all__ = ["NodeStore"]


class NodeStore(Protocol):
    """Every method raises StoreError when the database fails, and StorageFullError when the disk is full."""

    async def add_node(self, node: ClusterNode) -> None:
        """Add a node, or replace the one of its id. AlreadyExistsError: another node has used its token."""

    async def list_nodes(self) -> Sequence[ClusterNode]:
        """All nodes, in the order of their ids."""

    async def set_draining(self, node_id: str, *, is_draining: bool) -> bool:
        """Say whether a node gets new sandboxes; False: there is none of that id."""

    async def remove_node(self, node_id: str) -> bool:
        """Remove a node; False: there is none of that id. Its tokens stay used, for itself too."""
