"""A team's webhooks: create, list, change, delete, and look at what could not be delivered. Knows no HTTP.

Invariants: every call is checked against the caller's team, and another team's webhook looks like none. The secret that signs deliveries
is encrypted in the store, and no call but :meth:`Webhooks.secret_of` returns it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from cloister.errors import ConflictError, InvalidRequestError, NotFoundError, QuotaExceededError
from cloister.model.event import AttemptCount, Delivery, EventType, Webhook
from cloister.model.secret import Secret
from cloister.model.webhook_url import parse_webhook_url
from cloister.store.events import EventStore
from cloister.store.sealing import SealingKeys

__all__ = ["WebhookChange", "Webhooks"]

_log = structlog.get_logger("cloister.control")
_ATTEMPTS = 5
_MAX_NAME = 128
_MAX_SECRET = 512


@dataclass(frozen=True, kw_only=True)
class WebhookChange:
    """Fields of a webhook that a client gives; None: not given."""

    name: str | None = None
    url: str | None = None
    events: tuple[EventType, ...] | None = None
    enabled: bool | None = None
    secret: Secret | None = None


class Webhooks:
    """The use cases about webhooks. A team has at most ``most``.

    ``check_host`` raises InvalidRequestError for an address that deliveries may not reach; names are looked up when an event is sent.
    """

    def __init__(self, store: EventStore, keys: SealingKeys, check_host: Callable[[str], None], *, most: int) -> None:
        self._store = store
        self._keys = keys
        self._check_host = check_host
        self._most = most

    async def create(self, team_id: str, new: WebhookChange) -> Webhook:
        """Store a webhook. Raises: InvalidRequestError; QuotaExceededError."""
        if new.name is None or new.url is None or not new.events or new.secret is None:
            raise InvalidRequestError("name, url, events and signatureSecret are required")
        self._check(new)
        unsealed = Webhook(
            webhook_id=str(uuid.uuid4()),
            team_id=team_id,
            name=new.name,
            url=new.url,
            events=new.events,
            enabled=new.enabled is not False,
            created_at=time.time(),
            version=1,
            key_id="",
            sealed=b"",
        )
        webhook = self._sealed(unsealed, new.secret)
        if not await self._store.add_webhook(webhook, most=self._most):
            raise QuotaExceededError(f"a team may have at most {self._most} webhooks", hint="delete one, or see max_webhooks_per_team")
        _log.info("webhook.created", team_id=team_id, webhook_id=webhook.webhook_id)
        return webhook

    async def get(self, team_id: str, webhook_id: str) -> Webhook:
        """The team's webhook. Raises: NotFoundError."""
        found = await self._store.find_webhook(team_id, webhook_id)
        if found is None:
            raise NotFoundError("Webhook not found")
        return found

    async def list(self, team_id: str) -> Sequence[Webhook]:
        """The team's webhooks, oldest first."""
        return await self._store.list_webhooks(team_id)

    async def change(self, team_id: str, webhook_id: str, change: WebhookChange) -> Webhook:
        """Change the fields that are given. Raises: InvalidRequestError; NotFoundError; ConflictError: others change it too."""
        self._check(change)
        for _ in range(_ATTEMPTS):
            row = await self.get(team_id, webhook_id)
            secret = change.secret or self.secret_of(row)
            changed = replace(
                row,
                name=change.name or row.name,
                url=change.url or row.url,
                events=change.events or row.events,
                enabled=row.enabled if change.enabled is None else change.enabled,
                version=row.version + 1,
            )
            changed = self._sealed(changed, secret)
            if await self._store.change_webhook(changed, expected_version=row.version):
                _log.info("webhook.changed", team_id=team_id, webhook_id=webhook_id)
                return changed
        raise ConflictError("the webhook is being changed by others at the same time", hint="try again")

    async def delete(self, team_id: str, webhook_id: str) -> None:
        """Delete a webhook, and what waits for it. Raises: NotFoundError."""
        if not await self._store.delete_webhook(team_id, webhook_id):
            raise NotFoundError("Webhook not found")
        _log.info("webhook.deleted", team_id=team_id, webhook_id=webhook_id)

    async def deliveries(
        self, team_id: str, webhook_id: str, *, is_dead: bool | None, before: int | None, limit: int
    ) -> Sequence[Delivery]:
        """Deliveries that wait or were given up, newest first. Raises: NotFoundError."""
        await self.get(team_id, webhook_id)
        return await self._store.list_deliveries(webhook_id, is_dead=is_dead, before=before, limit=limit)

    async def attempts(self, team_id: str, webhook_id: str, start: float, end: float) -> Sequence[AttemptCount]:
        """The attempts of that time, in spans, oldest first. Raises: NotFoundError."""
        await self.get(team_id, webhook_id)
        return await self._store.count_attempts(webhook_id, start, end)

    async def send_again(self, team_id: str, webhook_id: str, number: int) -> None:
        """Try a delivery that was given up again. Raises: NotFoundError."""
        await self.get(team_id, webhook_id)
        if not await self._store.revive_delivery(webhook_id, number, time.time()):
            raise NotFoundError("there is no such delivery that was given up")

    def secret_of(self, webhook: Webhook) -> Secret:
        """The secret that signs deliveries. Raises: StoreError: it cannot be decrypted."""
        return self._keys.unseal(webhook.key_id, webhook.sealed, _context(webhook))

    async def reseal(self) -> int:
        """Encrypt all secrets with the current key; returns how many were not."""
        count = 0
        for row in await self._store.list_sealed_otherwise(self._keys.current_id):
            changed = self._sealed(replace(row, version=row.version + 1), self.secret_of(row))
            count += await self._store.change_webhook(changed, expected_version=row.version)
        return count

    def _check(self, change: WebhookChange) -> None:
        if change.url is not None:
            self._check_host(parse_webhook_url(change.url))
        if change.name is not None and not (1 <= len(change.name) <= _MAX_NAME and change.name.isprintable()):
            raise InvalidRequestError(f"name must be 1 to {_MAX_NAME} printable characters")
        if change.events is not None and not change.events:
            raise InvalidRequestError("events must name at least one type")
        if change.secret is not None and not 1 <= len(change.secret.revealed) <= _MAX_SECRET:
            raise InvalidRequestError(f"signatureSecret must have 1 to {_MAX_SECRET} characters")

    def _sealed(self, row: Webhook, secret: Secret) -> Webhook:
        key_id, sealed = self._keys.seal(secret, _context(row))
        return replace(row, key_id=key_id, sealed=sealed)


def _context(row: Webhook) -> bytes:
    """The facts that a secret is bound to."""
    return json.dumps(["cloister webhook", row.team_id, row.webhook_id, row.version]).encode()
