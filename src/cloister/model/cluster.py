"""The nodes of a cluster, as the store has them. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ClusterNode"]


@dataclass(frozen=True, kw_only=True)
class ClusterNode:
    """A node that has joined."""

    node_id: str
    address: str
    """Where its gate listens: ``host:port``."""
    joined_at: float
    """Seconds since the epoch, UTC."""
    token_id: str
    """The token that it joined by, which no other node can use."""
    is_draining: bool = False
    """Whether it gets no new sandboxes."""
