"""The drain of a node: it takes no new sandbox. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cloister.model.bounds import label

__all__ = ["DrainState", "Drained"]


@dataclass(frozen=True, kw_only=True)
class DrainState:
    """An operator drains the node."""

    since: float
    """Seconds since the epoch."""
    reason: Annotated[str, label(256)] = ""
    """For clients; empty: none was given."""
    refuses_resumes: bool = False
    """The sandboxes were paused, and stay so."""


@dataclass(frozen=True, kw_only=True)
class Drained:
    """The state after a change of the drain."""

    state: DrainState | None
    """None: the node is not drained."""
    running: int
    """Sandboxes of clients that run, or are being made."""
    paused: dict[str, int]
    """Sandboxes that this call paused, by the kind of the pause; ``not_paused``: they run on; ``ended``: they did meanwhile."""
