"""Makes lifecycle events from rows of sandboxes, and serves and bounds those that are stored. Knows no HTTP."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from cloister.model.event import EventType, LifecycleEvent
from cloister.model.sandbox import Sandbox
from cloister.store.events import EventStore

__all__ = ["LifecycleEvents", "event_of", "time_text"]

_MAX_METADATA_BYTES = 4096
"""Larger metadata is left out of events: there may be many of one sandbox."""
_EXECUTION = uuid.UUID("5f0d3cf0-6b8c-4c5e-9d4c-0b6f0f5f7b52")
"""Name space of the ids of executions."""
_WITH_EXECUTION = frozenset({EventType.PAUSED, EventType.KILLED})


def time_text(at: float) -> str:
    """Epoch seconds as RFC 3339, UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event_of(row: Sandbox, kind: EventType, at: float, **more: object) -> LifecycleEvent:
    """An event of the sandbox; ``more`` becomes part of its data."""
    is_small = len(json.dumps(row.metadata)) <= _MAX_METADATA_BYTES
    data: dict[str, Any] = {"sandbox_metadata": row.metadata if is_small else {}, **more}
    if kind in _WITH_EXECUTION:
        data["execution"] = {
            "started_at": time_text(row.started_at),
            "vcpu_count": int(row.cpu_count) if row.cpu_count == int(row.cpu_count) else row.cpu_count,
            "memory_mb": row.mem_mib,
            "execution_time": max(0, round((at - row.started_at) * 1000)),
        }
    return LifecycleEvent(
        event_id=str(uuid.uuid4()),
        team_id=row.team_id,
        sandbox_id=row.sandbox_id,
        type=kind,
        at=at,
        template_id=row.template_id,
        build_id=row.build_id or "",
        execution_id=str(uuid.uuid5(_EXECUTION, f"{row.sandbox_id} {row.started_at!r}")),
        data=data,
    )


class LifecycleEvents:
    """Events of all teams, each kept for ``retention_s``, and the newest ``most_per_team`` of a team at most."""

    def __init__(self, store: EventStore, *, retention_s: float, most_per_team: int) -> None:
        self._store = store
        self._retention_s = retention_s
        self._most_per_team = most_per_team

    async def list(
        self, team_id: str, *, sandbox_id: str | None, types: Collection[EventType], offset: int, limit: int, oldest_first: bool
    ) -> Sequence[LifecycleEvent]:
        """The team's events."""
        return await self._store.list_events(
            team_id, sandbox_id=sandbox_id, types=types, offset=offset, limit=limit, oldest_first=oldest_first
        )

    async def prune(self) -> int:
        """Delete old events, and those above the bound; returns how many."""
        return await self._store.prune_events(before=time.time() - self._retention_s, most_per_team=self._most_per_team)
