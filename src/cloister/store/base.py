"""The store's interface, the same for every database. Its rows are entities of ``model/``.

Invariant: a sandbox row changes only by compare-and-set on its ``version``, so a writer never overwrites a change that it has not seen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from cloister.model.event import LifecycleEvent
from cloister.model.sandbox import Sandbox
from cloister.store.events import EventStore
from cloister.store.nodes import NodeStore
from cloister.store.secrets import SecretStore
from cloister.store.sharing import Reservation, Sharing
from cloister.store.teams import TeamStore
from cloister.store.templates import TemplateStore
from cloister.store.volumes import VolumeStore

__all__ = ["Store"]


class Store(Protocol):
    """Every method raises StoreError when the database fails, and StorageFullError when the disk is full."""

    @property
    def teams(self) -> TeamStore:
        """Teams and keys, in the same database."""

    @property
    def templates(self) -> TemplateStore:
        """Templates of clients, in the same database."""

    @property
    def secrets(self) -> SecretStore:
        """Secrets of teams, in the same database."""

    @property
    def events(self) -> EventStore:
        """Events of sandboxes and their webhooks, in the same database."""

    @property
    def volumes(self) -> VolumeStore:
        """Volumes of teams, in the same database."""

    @property
    def nodes(self) -> NodeStore:
        """Nodes of a cluster, in the same database."""

    async def close(self) -> None:
        """Wait for writes under way and close the database."""

    @property
    def sharing(self) -> Sharing | None:
        """The other api processes; None: there are none, so no sandbox changes but by this process."""

    async def add_sandbox(self, sandbox: Sandbox, *, within: Reservation | None = None) -> None:
        """Add a sandbox; AlreadyExistsError if its id exists, or a live sandbox of the team has its idempotency key.

        With ``within`` the team's use, this sandbox too, is checked in the same transaction. Raises: also as the reservation's methods.
        """

    async def change_sandbox(
        self, sandbox: Sandbox, *, expected_version: int, events: Sequence[LifecycleEvent] = (), within: Reservation | None = None
    ) -> bool:
        """Replace the row if it has ``expected_version``; its version becomes ``sandbox.version``. False: it has another version.

        ``events`` are added in the same transaction, with their deliveries. ``within``: as for :meth:`add_sandbox`.
        """

    async def list_sandboxes(self, *, ended_since: float) -> Sequence[Sandbox]:
        """Sandboxes that have not ended, and those that ended at ``ended_since`` or later."""

    async def find_sandboxes(self, sandbox_ids: Collection[str]) -> Sequence[Sandbox]:
        """The sandboxes of these ids, in any state and order; none for an id that there is not."""

    async def prune_sandboxes(self, *, ended_before: float) -> int:
        """Delete the rows of sandboxes that ended earlier; returns how many."""
