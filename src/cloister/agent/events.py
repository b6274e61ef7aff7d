"""What happened in the sandbox, for its structured log: a bounded list of events in memory. Whoever serves the log reads it.

The list keeps the newest events; ``sequence`` grows by one for each event, so a reader sees by a gap that it came too late.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

__all__ = ["Event", "EventLog"]

_MAX_EVENTS = 2000


@dataclass(frozen=True)
class Event:
    """One event. ``kind`` is ``noun.verb`` in the past, such as ``process.started``; ``fields`` are JSON values."""

    sequence: int
    at_s: float
    kind: str
    fields: dict[str, Any]


class EventLog:
    """The events of one sandbox."""

    def __init__(self, max_events: int = _MAX_EVENTS) -> None:
        self.begin()
        self._events: deque[Event] = deque(maxlen=max_events)
        self._next = 0

    def begin(self) -> None:
        """This run of the agent begins: a new ``agent_id``, by which readers see that the numbers began again."""
        self.agent_id = secrets.token_hex(8)

    def record(self, kind: str, **fields: Any) -> None:
        """Add an event; the oldest one goes when there are too many."""
        self._events.append(Event(self._next, time.time(), kind, fields))
        self._next += 1

    def since(self, sequence: int) -> list[Event]:
        """The events from number ``sequence`` on that are still kept, oldest first."""
        return [event for event in self._events if event.sequence >= sequence]
