"""The store's interface for lifecycle events, webhooks and deliveries, the same for every database.

Events get in by :meth:`~cloister.store.base.Store.change_sandbox`, in one transaction with the change and with the deliveries to the
webhooks of that moment. So a crash loses none, and none is there twice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from cloister.model.event import Attempt, AttemptCount, Delivery, DueDelivery, EventType, LifecycleEvent, Webhook

__all__ = ["MOST_DEAD", "MOST_WAITING", "EventStore"]

MOST_WAITING = 1000
"""Deliveries of one webhook that wait. A further one is dead from the beginning."""
MOST_DEAD = 1000
"""Dead deliveries of one webhook that are kept, the newest ones."""


class EventStore(Protocol):
    """Every method raises StoreError when the database fails, and StorageFullError when the disk is full."""

    async def list_events(
        self, team_id: str, *, sandbox_id: str | None, types: Collection[EventType], offset: int, limit: int, oldest_first: bool
    ) -> Sequence[LifecycleEvent]:
        """The team's events, of the sandbox and types if given."""

    async def prune_events(self, *, before: float, most_per_team: int) -> int:
        """Delete events from before that time, and all but a team's newest. An event with a delivery stays.

        Of each webhook's dead deliveries only the newest :data:`MOST_DEAD` are left. Counts of attempts from before that time go, too.
        """

    async def add_webhook(self, webhook: Webhook, *, most: int) -> bool:
        """Add a webhook; False if the team has ``most`` or more."""

    async def find_webhook(self, team_id: str, webhook_id: str) -> Webhook | None:
        """The team's webhook of that id."""

    async def list_webhooks(self, team_id: str) -> Sequence[Webhook]:
        """The team's webhooks, oldest first."""

    async def change_webhook(self, webhook: Webhook, *, expected_version: int) -> bool:
        """Replace the webhook if it has ``expected_version``; False: it has another version, or is gone."""

    async def delete_webhook(self, team_id: str, webhook_id: str) -> bool:
        """Delete a webhook of the team and its deliveries; False if there is none of that id."""

    async def list_sealed_otherwise(self, key_id: str) -> Sequence[Webhook]:
        """Webhooks of all teams whose secret is encrypted with another key."""

    async def list_deliveries(self, webhook_id: str, *, is_dead: bool | None, before: int | None, limit: int) -> Sequence[Delivery]:
        """Deliveries that wait or are dead, newest first; with numbers below ``before``, if given."""

    async def list_due(
        self, now: float, *, except_numbers: Collection[int], except_teams: Collection[str], limit: int
    ) -> Sequence[DueDelivery]:
        """Deliveries to try now, longest due first: of each webhook and sandbox the oldest one that waits, of enabled webhooks only."""

    async def next_due_at(self, *, except_numbers: Collection[int]) -> float | None:
        """Time of the earliest attempt that :meth:`list_due` will tell; None: there is none."""

    async def end_delivery(self, number: int, attempt: Attempt) -> None:
        """Forget a delivery that has arrived by this attempt, and count that."""

    async def fail_delivery(self, number: int, attempt: Attempt, *, status: int | None, error: str, next_at: float | None) -> None:
        """Count a failed attempt. The next one is at ``next_at``; None: the delivery is dead."""

    async def count_attempts(self, webhook_id: str, start: float, end: float) -> Sequence[AttemptCount]:
        """The spans that begin in that time, the end excluded, oldest first; those without an attempt are left out."""

    async def revive_delivery(self, webhook_id: str, number: int, at: float) -> bool:
        """Let a dead delivery wait again, from the first attempt on; False if there is no such dead delivery."""
