"""The SQL of :class:`~cloister.store.events.EventStore`; see there for each method."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from typing import Any

from cloister.model.event import ATTEMPTS_SPAN_S, Attempt, AttemptCount, Delivery, DueDelivery, EventType, LifecycleEvent, Webhook
from cloister.store.connection import Connection, Runner
from cloister.store.events import MOST_DEAD, MOST_WAITING

__all__ = ["SqlEvents", "insert_events"]

_EVENT = tuple(field.name for field in dataclasses.fields(LifecycleEvent))
_EVENT_NAMES, _EVENT_MARKS = ", ".join(_EVENT), ", ".join(f":{name}" for name in _EVENT)
_WEBHOOK = tuple(field.name for field in dataclasses.fields(Webhook))
_WEBHOOK_NAMES, _WEBHOOK_MARKS = ", ".join(_WEBHOOK), ", ".join(f":{name}" for name in _WEBHOOK)
_OVERFLOW = "too many deliveries to this webhook waited"
_INSERT_EVENT = (
    f"INSERT INTO sandbox_events ({_EVENT_NAMES}) VALUES ({_EVENT_MARKS})"  # noqa: S608 - our own column names, here and below
    " ON CONFLICT (event_id) DO NOTHING RETURNING number"
)
_INSERT_DELIVERIES = """
    INSERT INTO webhook_deliveries (webhook_id, event_number, sandbox_id, attempts, next_at, is_dead, error)
    SELECT webhook_id, :number, :sandbox_id, 0, :at, CASE WHEN waiting >= :most THEN 1 ELSE 0 END,
           CASE WHEN waiting >= :most THEN :overflow ELSE '' END
    FROM (SELECT webhook_id, (SELECT count(*) FROM webhook_deliveries d WHERE d.webhook_id = w.webhook_id AND is_dead = 0) AS waiting
          FROM webhooks w WHERE team_id = :team_id AND enabled = 1 AND events LIKE '%"' || :type || '"%') AS waiting_webhooks
"""
_DELIVERY = "d.number, d.webhook_id, d.attempts, d.next_at, d.is_dead, d.status, d.error, " + ", ".join(f"e.{name}" for name in _EVENT)
_JOINED = "FROM webhook_deliveries d JOIN sandbox_events e ON e.number = d.event_number"
# SQLite prepares a statement anew for each value of a bare parameter of LIKE, so the pattern is an expression.
# SQLite uses an index for `is_dead = 0`, but none for `NOT is_dead`.
_IS_FIRST = """
    d.is_dead = 0 AND NOT EXISTS (SELECT 1 FROM webhook_deliveries f WHERE f.webhook_id = d.webhook_id AND f.is_dead = 0
                                  AND f.sandbox_id = d.sandbox_id AND f.number < d.number)
"""
_PRUNE_DEAD = """
    DELETE FROM webhook_deliveries WHERE webhook_id = :webhook_id AND is_dead = 1 AND number <= (
        SELECT number FROM webhook_deliveries WHERE webhook_id = :webhook_id AND is_dead = 1 ORDER BY number DESC LIMIT 1 OFFSET :most)
"""
_MANY_DEAD = "SELECT webhook_id FROM webhook_deliveries WHERE is_dead = 1 GROUP BY webhook_id HAVING count(*) > ?"
_PRUNE_EVENTS = "DELETE FROM sandbox_events WHERE number NOT IN (SELECT event_number FROM webhook_deliveries)"
_FIRST_KEPT = "SELECT coalesce((SELECT number FROM sandbox_events WHERE at >= ? ORDER BY number LIMIT 1), 4611686018427387904)"
"""The oldest event that is kept for its time: the search ends there, so events after it are not looked at."""
_COUNT = """
    INSERT INTO webhook_attempts (webhook_id, began_at, total, failed, least_ms, most_ms, sum_ms)
    VALUES (:webhook_id, :began_at, 1, :failed, :least_ms, :most_ms, :sum_ms)
    ON CONFLICT (webhook_id, began_at) DO UPDATE SET
        total = webhook_attempts.total + 1,
        failed = webhook_attempts.failed + excluded.failed,
        least_ms = CASE WHEN excluded.least_ms < webhook_attempts.least_ms THEN excluded.least_ms ELSE webhook_attempts.least_ms END,
        most_ms = CASE WHEN excluded.most_ms > webhook_attempts.most_ms THEN excluded.most_ms ELSE webhook_attempts.most_ms END,
        sum_ms = webhook_attempts.sum_ms + excluded.sum_ms
"""
_NEWEST = "SELECT number FROM sandbox_events WHERE team_id = :team_id ORDER BY number DESC LIMIT 1 OFFSET :most"
"""The newest event above the bound."""


def insert_events(connection: Connection, events: Sequence[LifecycleEvent]) -> None:
    """Add events and their deliveries, in the caller's transaction. One that is there already is left alone."""
    for event in events:
        for row in connection.execute(_INSERT_EVENT, {**vars(event), "data": json.dumps(event.data)}).fetchall():
            values = {"number": row["number"], "sandbox_id": event.sandbox_id, "team_id": event.team_id, "type": event.type}
            connection.execute(_INSERT_DELIVERIES, {**values, "at": event.at, "most": MOST_WAITING, "overflow": _OVERFLOW})


class SqlEvents:
    """A :class:`~cloister.store.events.EventStore` on the connection of a :class:`~cloister.store.sql_store.SqlStore`."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    async def _change(self, sql: str, values: Sequence[Any] | dict[str, Any]) -> int:
        return await self._run(lambda connection: connection.execute(sql, values).rowcount)

    async def _fetch(self, sql: str, values: Sequence[Any] | dict[str, Any]) -> list[dict[str, Any]]:
        rows = await self._run(lambda connection: connection.execute(sql, values).fetchall())
        return [dict(row) for row in rows]

    async def list_events(
        self, team_id: str, *, sandbox_id: str | None, types: Collection[EventType], offset: int, limit: int, oldest_first: bool
    ) -> Sequence[LifecycleEvent]:
        """See :class:`~cloister.store.events.EventStore`; likewise below."""
        of_types, values = _among("AND type IN", types)
        sql = (
            f"SELECT {_EVENT_NAMES} FROM sandbox_events WHERE team_id = :team_id"  # noqa: S608 - as above
            " AND (:sandbox_id IS NULL OR sandbox_id = :sandbox_id)"
            f" {of_types} ORDER BY number {'ASC' if oldest_first else 'DESC'} LIMIT :limit OFFSET :offset"
        )
        values |= {"team_id": team_id, "sandbox_id": sandbox_id, "limit": limit, "offset": offset}
        return [_to_event(row) for row in await self._fetch(sql, values)]

    async def prune_events(self, *, before: float, most_per_team: int) -> int:
        """See the protocol."""

        def work(connection: Connection) -> int:
            for row in connection.execute(_MANY_DEAD, (MOST_DEAD,)).fetchall():  # deliveries that were dead from the beginning
                connection.execute(_PRUNE_DEAD, {"webhook_id": row["webhook_id"], "most": MOST_DEAD})
            connection.execute("DELETE FROM webhook_attempts WHERE began_at < ?", (before,))
            count = connection.execute(f"{_PRUNE_EVENTS} AND number < ({_FIRST_KEPT}) AND at < ?", (before, before)).rowcount
            large = connection.execute(
                "SELECT team_id FROM sandbox_events GROUP BY team_id HAVING count(*) > ?", (most_per_team,)
            ).fetchall()
            for row in large:
                values = {"team_id": row["team_id"], "most": most_per_team}
                count += connection.execute(f"{_PRUNE_EVENTS} AND team_id = :team_id AND number <= ({_NEWEST})", values).rowcount
            return count

        return await self._run(work)

    async def add_webhook(self, webhook: Webhook, *, most: int) -> bool:
        """See the protocol."""
        sql = (
            f"INSERT INTO webhooks ({_WEBHOOK_NAMES}) SELECT {_WEBHOOK_MARKS}"  # noqa: S608 - as above
            " WHERE (SELECT count(*) FROM webhooks WHERE team_id = :team_id) < :most"
        )
        values = {**_from_webhook(webhook), "most": most}

        def add(connection: Connection) -> bool:
            connection.lock(f"webhooks of {webhook.team_id}")
            return connection.execute(sql, values).rowcount == 1

        return await self._run(lambda connection: connection.whole(add))

    async def find_webhook(self, team_id: str, webhook_id: str) -> Webhook | None:
        """See the protocol."""
        sql = f"SELECT {_WEBHOOK_NAMES} FROM webhooks WHERE team_id = ? AND webhook_id = ?"  # noqa: S608 - as above
        found = await self._fetch(sql, (team_id, webhook_id))
        return _to_webhook(found[0]) if found else None

    async def list_webhooks(self, team_id: str) -> Sequence[Webhook]:
        """See the protocol."""
        sql = f"SELECT {_WEBHOOK_NAMES} FROM webhooks WHERE team_id = ? ORDER BY created_at, webhook_id"  # noqa: S608 - as above
        return [_to_webhook(row) for row in await self._fetch(sql, (team_id,))]

    async def change_webhook(self, webhook: Webhook, *, expected_version: int) -> bool:
        """See the protocol."""
        sql = (
            "UPDATE webhooks SET name = :name, url = :url, events = :events, enabled = :enabled, version = :version, key_id = :key_id,"
            " sealed = :sealed WHERE webhook_id = :webhook_id AND team_id = :team_id AND version = :expected_version"
        )
        return await self._change(sql, {**_from_webhook(webhook), "expected_version": expected_version}) == 1

    async def delete_webhook(self, team_id: str, webhook_id: str) -> bool:
        """See the protocol."""
        return await self._change("DELETE FROM webhooks WHERE team_id = ? AND webhook_id = ?", (team_id, webhook_id)) == 1

    async def list_sealed_otherwise(self, key_id: str) -> Sequence[Webhook]:
        """See the protocol."""
        sql = f"SELECT {_WEBHOOK_NAMES} FROM webhooks WHERE key_id <> ?"  # noqa: S608 - as above
        return [_to_webhook(row) for row in await self._fetch(sql, (key_id,))]

    async def list_deliveries(self, webhook_id: str, *, is_dead: bool | None, before: int | None, limit: int) -> Sequence[Delivery]:
        """See the protocol."""
        sql = (
            f"SELECT {_DELIVERY} {_JOINED} WHERE d.webhook_id = :webhook_id AND (:is_dead IS NULL OR d.is_dead = :is_dead)"
            " AND (:before IS NULL OR d.number < :before) ORDER BY d.number DESC LIMIT :limit"
        )
        values = {"webhook_id": webhook_id, "is_dead": is_dead, "before": before, "limit": limit}
        return [_to_delivery(row) for row in await self._fetch(sql, values)]

    async def list_due(
        self, now: float, *, except_numbers: Collection[int], except_teams: Collection[str], limit: int
    ) -> Sequence[DueDelivery]:
        """See the protocol."""
        names = ", ".join(f"w.{name} AS w_{name}" for name in _WEBHOOK)
        (others, numbers), (of_others, teams) = _among("AND d.number NOT IN", except_numbers), _among("AND w.team_id NOT IN", except_teams)
        sql = (
            f"SELECT {_DELIVERY}, {names} {_JOINED} JOIN webhooks w ON w.webhook_id = d.webhook_id"
            f" WHERE w.enabled = 1 AND d.next_at <= :now AND {_IS_FIRST}"
            f" {others} {of_others} ORDER BY d.next_at, d.number LIMIT :limit"
        )
        rows = await self._fetch(sql, {"now": now, "limit": limit, **numbers, **teams})
        return [DueDelivery(delivery=_to_delivery(row), webhook=_to_webhook({name: row[f"w_{name}"] for name in _WEBHOOK})) for row in rows]

    async def next_due_at(self, *, except_numbers: Collection[int]) -> float | None:
        """See the protocol."""
        others, numbers = _among("AND d.number NOT IN", except_numbers)
        sql = (
            "SELECT min(d.next_at) AS at FROM webhook_deliveries d JOIN webhooks w ON w.webhook_id = d.webhook_id"  # noqa: S608 - as above
            f" WHERE w.enabled = 1 AND {_IS_FIRST} {others}"
        )
        at: float | None = (await self._fetch(sql, numbers))[0]["at"]
        return at

    async def end_delivery(self, number: int, attempt: Attempt) -> None:
        """See the protocol."""

        def work(connection: Connection) -> None:
            for row in connection.execute("DELETE FROM webhook_deliveries WHERE number = ? RETURNING webhook_id", (number,)).fetchall():
                _count(connection, row["webhook_id"], attempt, failed=0)

        await self._run(work)

    async def fail_delivery(self, number: int, attempt: Attempt, *, status: int | None, error: str, next_at: float | None) -> None:
        """See the protocol."""
        sql = (
            "UPDATE webhook_deliveries SET attempts = attempts + 1, status = :status, error = :error, is_dead = :is_dead,"
            " next_at = coalesce(:next_at, next_at) WHERE number = :number RETURNING webhook_id"
        )
        values = {"number": number, "status": status, "error": error, "is_dead": next_at is None, "next_at": next_at}

        def work(connection: Connection) -> None:
            changed = connection.execute(sql, values).fetchall()
            for row in changed:
                _count(connection, row["webhook_id"], attempt, failed=1)
            if changed and next_at is None:
                connection.execute(_PRUNE_DEAD, {"webhook_id": changed[0]["webhook_id"], "most": MOST_DEAD})

        await self._run(work)

    async def count_attempts(self, webhook_id: str, start: float, end: float) -> Sequence[AttemptCount]:
        """See the protocol."""
        sql = (
            "SELECT began_at, total, failed, least_ms, most_ms, sum_ms FROM webhook_attempts"
            " WHERE webhook_id = ? AND began_at >= ? AND began_at < ? ORDER BY began_at"
        )
        return [AttemptCount(**row) for row in await self._fetch(sql, (webhook_id, start, end))]

    async def revive_delivery(self, webhook_id: str, number: int, at: float) -> bool:
        """See the protocol."""
        sql = "UPDATE webhook_deliveries SET is_dead = 0, attempts = 0, next_at = ? WHERE webhook_id = ? AND number = ? AND is_dead = 1"
        return await self._change(sql, (at, webhook_id, number)) == 1


def _count(connection: Connection, webhook_id: str, attempt: Attempt, *, failed: int) -> None:
    began_at, duration_ms = int(attempt.at) // ATTEMPTS_SPAN_S * ATTEMPTS_SPAN_S, attempt.duration_ms
    durations = {"least_ms": duration_ms, "most_ms": duration_ms, "sum_ms": duration_ms}
    connection.execute(_COUNT, {"webhook_id": webhook_id, "began_at": began_at, "failed": failed, **durations})


def _among(condition: str, values: Collection[Any]) -> tuple[str, dict[str, Any]]:
    """The condition on a list, and its parameters; empty for an empty list. ``condition`` ends with ``IN``."""
    named = {f"{condition.split()[1].replace('.', '_')}_{index}": value for index, value in enumerate(values)}
    return (f"{condition} ({', '.join(f':{name}' for name in named)})" if named else ""), named


def _to_event(row: dict[str, Any]) -> LifecycleEvent:
    fields = {name: row[name] for name in _EVENT}
    return LifecycleEvent(**{**fields, "type": EventType(row["type"]), "data": json.loads(row["data"])})


def _to_delivery(row: dict[str, Any]) -> Delivery:
    return Delivery(
        number=row["number"],
        webhook_id=row["webhook_id"],
        attempts=row["attempts"],
        next_at=row["next_at"],
        is_dead=bool(row["is_dead"]),
        status=row["status"],
        error=row["error"],
        event=_to_event(row),
    )


def _to_webhook(row: dict[str, Any]) -> Webhook:
    events = tuple(map(EventType, json.loads(row["events"])))
    return Webhook(**{**row, "events": events, "enabled": bool(row["enabled"])})


def _from_webhook(webhook: Webhook) -> dict[str, Any]:
    return {**vars(webhook), "events": json.dumps(webhook.events)}
