"""Lifecycle events of sandboxes, the webhooks that want them, and the deliveries to these. Plain data: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["ATTEMPTS_SPAN_S", "Attempt", "AttemptCount", "Delivery", "DueDelivery", "EventType", "LifecycleEvent", "Webhook"]

ATTEMPTS_SPAN_S = 300
"""Attempts are counted in spans that begin at a multiple of this."""


class EventType(StrEnum):
    """The published types. Source: the vendor's documentation, "Sandbox lifecycle webhooks"."""

    CREATED = "sandbox.lifecycle.created"
    UPDATED = "sandbox.lifecycle.updated"
    PAUSED = "sandbox.lifecycle.paused"
    RESUMED = "sandbox.lifecycle.resumed"
    CHECKPOINTED = "sandbox.lifecycle.checkpointed"
    """A snapshot was made of it."""
    KILLED = "sandbox.lifecycle.killed"
    """It ended, for whatever reason."""


@dataclass(frozen=True, kw_only=True)
class LifecycleEvent:
    """An event of a sandbox. It is stored together with the change that it tells of."""

    event_id: str
    """A UUID: receivers know a repeated delivery by it."""
    team_id: str
    sandbox_id: str
    type: EventType
    at: float
    template_id: str
    build_id: str
    """The build of the template; empty for a stock template."""
    execution_id: str
    """A UUID for the time from a creation or resume to the next pause or the end."""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """A URL that gets the events of a team. Its secret is encrypted."""

    webhook_id: str
    team_id: str
    name: str
    url: str
    events: tuple[EventType, ...]
    enabled: bool
    created_at: float
    version: int
    """Raised by each change, and bound to the secret."""
    key_id: str
    """The key that the secret is encrypted with."""
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """An event on its way to a webhook."""

    number: int
    webhook_id: str
    attempts: int
    next_at: float
    """Time of the next attempt (epoch seconds)."""
    is_dead: bool
    """Whether no more attempts are made."""
    status: int | None
    """HTTP status of the last answer; None: there was none."""
    error: str
    """Why the last attempt failed; empty before the first."""
    event: LifecycleEvent


@dataclass(frozen=True)
class Attempt:
    """One try to deliver an event."""

    at: float
    """When it ended (epoch seconds)."""
    duration_ms: int


@dataclass(frozen=True, kw_only=True)
class AttemptCount:
    """The attempts for one webhook in a span of time, at least one."""

    began_at: int
    """Beginning of the span (epoch seconds)."""
    total: int
    failed: int
    least_ms: int
    most_ms: int
    sum_ms: int
    """Of the durations of all attempts."""


@dataclass(frozen=True, kw_only=True)
class DueDelivery:
    """A delivery whose time has come, with its webhook."""

    delivery: Delivery
    webhook: Webhook
