"""How api processes work together that share one database.

Each has a connection of its own for this. While it lives, the process is told each change of a sandbox by any process, in the order of
the database, and its number counts as alive. One of the processes leads: it alone does what must be done once for all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from cloister.model.team import TeamUse

__all__ = ["Reservation", "Sharing", "SharingListener"]


@dataclass(frozen=True)
class SharingListener:
    """Functions that :class:`Sharing` calls, one at a time. A failed call is repeated with the next connection."""

    connected: Callable[[], Awaitable[None]]
    """There is a connection (again). Changes of the time without one are not told: read all."""
    changed: Callable[[Mapping[str, int]], Awaitable[None]]
    """Sandboxes changed, or were added: ids, and the latest versions of which was told."""
    due: Callable[[], None]
    """There are new deliveries of events."""


class Reservation(Protocol):
    """The conditions on which a team gets more."""

    @property
    def rate(self) -> float | None:
        """Creations a second; None: any number, or this is no creation."""

    def check(self, use: TeamUse) -> None:
        """Raises: QuotaExceededError: the team may not have more than this ``use``."""
        ...

    def refuse(self) -> None:
        """Raises: RateLimitedError: the rate is reached."""
        ...


class Sharing(Protocol):
    """The other processes. Its methods raise StoreUnreachableError while the database is away."""

    @property
    def is_leader(self) -> bool:
        """Whether this process leads now. When it loses the connection it does not, and a second later another one does."""

    def start(self, listener: SharingListener) -> None:
        """Begin to listen, and keep listening until the store is closed."""

    async def catch_up(self) -> None:
        """Return when the listener was told all changes that were complete before this call."""

    def alone(self, name: str) -> AbstractAsyncContextManager[None]:
        """In the block no other process is in a block of the same name."""

    async def list_creations(self) -> Sequence[str]:
        """The ids of sandboxes that other processes are making now."""
