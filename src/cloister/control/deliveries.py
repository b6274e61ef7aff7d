"""Delivers lifecycle events to webhooks: one task, which begins a bounded number of attempts at once, of each team and in all.

A delivery is a row of the store from the moment of its event on. It is deleted after an answer of 2xx, so a crash of this process loses
none; at worst the receiver gets an event twice, with the same id. Of each webhook and sandbox the oldest one is tried first, and a later
one only after it has arrived or is given up: so the events of a sandbox arrive in their order.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog

from cloister.control.lifecycle_events import LifecycleEvents, time_text
from cloister.control.webhooks import Webhooks
from cloister.errors import CloisterError, UnavailableError
from cloister.model.event import Attempt, DueDelivery, EventType, LifecycleEvent
from cloister.store.events import EventStore

__all__ = ["Deliveries", "Receivers", "render_payload", "sign"]

_log = structlog.get_logger("cloister.control")
_AT_ONCE = 32
_AT_ONCE_PER_TEAM = 4
_LOOK_AT = 64
_ATTEMPTS = 8
_FIRST_WAIT_S = 5.0
"""Before the second attempt; each further wait is twice as long: some ten minutes in all."""
_PAUSE_S = 0.05
"""Between two looks at the store, however many events come."""
_IDLE_S = 60.0
_AGAIN_S = 5.0
_PRUNE_AFTER, _PRUNE_S = 1000, 600.0
"""Events are bounded after so many new ones, and after so much time."""
_MAX_ERROR = 200
_LABELS = {
    EventType.CREATED: "create",
    EventType.UPDATED: "update",
    EventType.PAUSED: "pause",
    EventType.RESUMED: "resume",
    EventType.CHECKPOINTED: "checkpoint",
    EventType.KILLED: "kill",
}


class Receivers(Protocol):
    """Sends requests to URLs of clients, within a bounded time."""

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """The status of the answer. Raises: UnavailableError: there is none, or the server may not connect there."""
        ...


def render_payload(event: LifecycleEvent) -> dict[str, Any]:
    """The published body of a delivery. Source: the vendor's documentation, "Webhook payload"."""
    return {
        "id": event.event_id,
        "version": "v2",
        "type": event.type.value,
        "timestamp": time_text(event.at),
        "event_category": "lifecycle",
        "event_label": _LABELS[event.type],
        "event_data": event.data,
        "sandbox_id": event.sandbox_id,
        "sandbox_execution_id": event.execution_id,
        "sandbox_template_id": event.template_id,
        "sandbox_build_id": event.build_id,
        "sandbox_team_id": event.team_id,
    }


def sign(secret: str, body: bytes) -> tuple[bytes, str]:
    """The body as it is sent, and its signature: base64 of SHA-256 of the secret and the body, without padding.

    Published verifiers differ in the alphabet of base64. Spaces are added to the body until the signature is the same in both.
    """
    while True:
        text = base64.b64encode(hashlib.sha256(secret.encode() + body).digest()).decode().rstrip("=")
        if "+" not in text and "/" not in text:
            return body, text
        body += b" "


class Deliveries:
    """Call :meth:`start` first and :meth:`close` last."""

    def __init__(
        self,
        store: EventStore,
        webhooks: Webhooks,
        events: LifecycleEvents,
        receivers: Receivers,
        is_leader: Callable[[], bool] = lambda: True,
    ) -> None:
        """``is_leader`` says whether this process delivers now; :meth:`look` is called when it begins to."""
        self._store = store
        self.webhooks = webhooks
        self.events = events
        self._receivers = receivers
        self._is_leader = is_leader
        self._news = asyncio.Event()
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._of_team: Counter[str] = Counter()
        self._unpruned = 0
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to deliver."""
        self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Give up the attempts under way: the next process makes them again."""
        tasks = [task for task in (self._running, *self._under_way.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def look(self, count: int = 0) -> None:
        """Look at the store soon: ``count`` events are new, or a client wants a delivery again."""
        self._unpruned += count
        self._news.set()

    async def _run(self) -> None:
        pruned_at = time.monotonic()
        while True:
            self._news.clear()
            wait_s = _AGAIN_S
            if not self._is_leader():
                await self._news.wait()
                continue
            try:
                await self._begin_due()
                due_at = await self._store.next_due_at(except_numbers=self._under_way)
                wait_s = _IDLE_S if due_at is None or len(self._under_way) >= _AT_ONCE else min(_IDLE_S, due_at - time.time())
                if self._unpruned >= _PRUNE_AFTER or time.monotonic() - pruned_at >= _PRUNE_S:
                    self._unpruned, pruned_at = 0, time.monotonic()
                    await self.events.prune()
            except CloisterError:
                _log.exception("webhooks.not_looked")
            await asyncio.sleep(_PAUSE_S)
            if wait_s > 0 or self._full_teams():
                try:
                    async with asyncio.timeout(max(wait_s, _PAUSE_S)):
                        await self._news.wait()
                except TimeoutError:
                    pass

    def _full_teams(self) -> list[str]:
        return [team_id for team_id, count in self._of_team.items() if count >= _AT_ONCE_PER_TEAM]

    async def _begin_due(self) -> None:
        while len(self._under_way) < _AT_ONCE:
            found = await self._store.list_due(time.time(), except_numbers=self._under_way, except_teams=self._full_teams(), limit=_LOOK_AT)
            for due in found:
                if self._of_team[due.webhook.team_id] < _AT_ONCE_PER_TEAM and len(self._under_way) < _AT_ONCE:
                    self._begin(due)
            if not found:
                return

    def _begin(self, due: DueDelivery) -> None:
        number, team_id = due.delivery.number, due.webhook.team_id
        task = self._under_way[number] = asyncio.create_task(self._attempt(due))
        self._of_team[team_id] += 1

        def end(_: asyncio.Task[None]) -> None:
            del self._under_way[number]
            self._of_team[team_id] -= 1
            if not self._of_team[team_id]:
                del self._of_team[team_id]
            self._news.set()
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("webhook.attempt_failed", delivery=number, error=repr(error))

        task.add_done_callback(end)

    async def _attempt(self, due: DueDelivery) -> None:
        delivery, webhook = due.delivery, due.webhook
        status: int | None = None
        began = time.monotonic()
        try:
            secret = self.webhooks.secret_of(webhook).revealed
            body, signature = sign(secret, json.dumps(render_payload(delivery.event)).encode())
            headers = {
                "Content-Type": "application/json",
                "User-Agent": "cloister-webhooks",
                "e2b-webhook-id": webhook.webhook_id,
                "e2b-delivery-id": str(uuid.uuid4()),
                "e2b-signature-version": "v1",
                "e2b-signature": signature,
            }
            status = await self._receivers.post(webhook.url, headers, body)
            error = "" if 200 <= status < 300 else f"the receiver answered {status}"
        except UnavailableError as fault:
            error = fault.message
        except CloisterError as fault:
            error = str(fault)
        except Exception as fault:  # noqa: BLE001 - task border: without an outcome, the attempt would be made again at once
            _log.exception("webhook.attempt_failed", delivery=delivery.number)
            error = f"the server failed: {type(fault).__name__}"
        attempt = Attempt(time.time(), round((time.monotonic() - began) * 1000))
        names = {"webhook_id": webhook.webhook_id, "team_id": webhook.team_id, "event_id": delivery.event.event_id}
        if not error:
            await self._note(lambda: self._store.end_delivery(delivery.number, attempt))
            _log.debug("webhook.delivered", **names)
            return
        attempts = delivery.attempts + 1
        next_at = None if attempts >= _ATTEMPTS else time.time() + _FIRST_WAIT_S * 2 ** (attempts - 1)
        error = error[:_MAX_ERROR]
        await self._note(lambda: self._store.fail_delivery(delivery.number, attempt, status=status, error=error, next_at=next_at))
        _log.info("webhook.failed", **names, attempts=attempts, is_dead=next_at is None, error=error)

    async def _note(self, write: Callable[[], Awaitable[None]]) -> None:
        """Store the outcome of an attempt. Until the store takes it the attempt is under way, so it is not made again."""
        while True:
            try:
                return await write()
            except CloisterError:
                _log.exception("webhook.not_noted")
                await asyncio.sleep(_AGAIN_S)
