"""Events of the sandbox's log: a bounded list in memory, which the server reads (reports.py).

The list keeps the newest events. ``sequence`` grows by one with each event, so a reader that comes too late sees a gap.
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
        """A run of the agent begins: a new ``agent_id`` tells readers that numbers start at 0."""
        self.agent_id = secrets.token_hex(8)

    def begin_anew(self) -> None:
        """Forget the events of the sandbox that this one is a copy of."""
        self.begin()
        self._events.clear()
        self._next = 0

    def record(self, kind: str, **fields: Any) -> None:
        """Add an event; when the list is full the oldest one is dropped."""
        self._events.append(Event(self._next, time.time(), kind, fields))
        self._next += 1

    def since(self, sequence: int) -> list[Event]:
        """The kept events from number ``sequence`` on, oldest first."""
        return [event for event in self._events if event.sequence >= sequence]
