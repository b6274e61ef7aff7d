"""Events, webhooks and deliveries in each store: events come with their change or not at all, and all is bounded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.control.lifecycle_events import event_of
from cloister.errors import PermissionDeniedError, StoreError
from cloister.model.event import Attempt, AttemptCount, DueDelivery, EventType, LifecycleEvent, Webhook
from cloister.model.sandbox import Sandbox, SandboxState
from cloister.model.team import Team
from cloister.store import sql_events as module
from cloister.store.sql_store import SqlStore
from cloister.store.sqlite import SqliteStore

ROW = Sandbox(
    sandbox_id="a" * 20,
    team_id="t1",
    template_id="base",
    template="base",
    state=SandboxState.RUNNING,
    started_at=10.0,
    end_at=20.0,
    cpu_count=1,
    mem_mib=512,
    disk_mib=1024,
)
HOOK = Webhook(
    webhook_id="w1",
    team_id="t1",
    name="n",
    url="https://example.com",
    events=(EventType.UPDATED, EventType.KILLED),
    enabled=True,
    created_at=1.0,
    version=1,
    key_id="k",
    sealed=b"s",
)


def event(kind: EventType = EventType.UPDATED, row: Sandbox = ROW, at: float = 11.0) -> LifecycleEvent:
    """An event of the sandbox."""
    return event_of(row, kind, at)


@pytest.fixture
async def store(open_store: Callable[[], Awaitable[SqlStore]]) -> SqlStore:
    """A store with two teams, the sandbox and the webhook."""
    return await filled(await open_store())


async def filled(opened: SqlStore) -> SqlStore:
    """The same store, with two teams, the sandbox and the webhook."""
    for number in (1, 2):
        await opened.teams.add_team(Team(team_id=f"t{number}", name=str(number), created_at=number))
    await opened.add_sandbox(ROW)
    await opened.events.add_webhook(HOOK, most=9)
    return opened


async def told(store: SqlStore, *events: LifecycleEvent, version: int = 1) -> bool:
    """Change the row, with events."""
    return await store.change_sandbox(replace(ROW, version=version + 1), expected_version=version, events=events)


async def listed(store: SqlStore, team_id: str = "t1") -> list[LifecycleEvent]:
    """A team's events, oldest first."""
    return list(await store.events.list_events(team_id, sandbox_id=None, types=(), offset=0, limit=99_999, oldest_first=True))


async def due(store: SqlStore, now: float = 1e9) -> list[DueDelivery]:
    """The deliveries that are due."""
    return list(await store.events.list_due(now, except_numbers=(), except_teams=(), limit=100))


async def test_an_event_is_stored_with_its_change_or_not_at_all(store: SqlStore) -> None:
    """A change that loses the race has no event, and neither has one whose transaction fails."""
    first = event()
    assert await told(store, first)
    assert not await told(store, event())
    with pytest.raises(StoreError):
        await told(store, event(), replace(event(), team_id=None), version=2)  # type: ignore[arg-type]  # it breaks the second statement
    assert await listed(store) == [first]
    assert [one.delivery.event for one in await due(store)] == [first]
    assert await told(store, event(EventType.PAUSED), version=2)
    assert len(await due(store)) == 1


async def test_an_event_that_is_written_again_is_there_once(store: SqlStore) -> None:
    """A writer that does not know whether its write arrived may repeat it."""
    first = event()
    await told(store, first)
    await told(store, first, version=2)
    assert await listed(store) == [first]
    assert len(await store.events.list_deliveries("w1", is_dead=None, before=None, limit=9)) == 1


async def test_of_a_sandbox_only_the_oldest_waiting_delivery_is_due(store: SqlStore) -> None:
    """The next one becomes due when it has arrived or is given up; other sandboxes and webhooks do not wait for it."""
    await store.events.add_webhook(replace(HOOK, webhook_id="w2"), most=9)
    await store.events.add_webhook(replace(HOOK, webhook_id="w3", enabled=False), most=9)
    await store.events.add_webhook(replace(HOOK, webhook_id="w4", team_id="t2"), most=9)
    one, two = event(), event(EventType.KILLED)
    other = replace(event(), sandbox_id="b" * 20)
    await told(store, one, two, other)
    assert {(found.webhook.webhook_id, found.delivery.event.event_id) for found in await due(store)} == {
        (webhook, found.event_id) for webhook in ("w1", "w2") for found in (one, other)
    }
    first = next(found.delivery for found in await due(store) if found.webhook.webhook_id == "w1" and found.delivery.event == one)
    await store.events.fail_delivery(first.number, Attempt(1.0, 1), status=500, error="no", next_at=2e9)
    assert two not in [found.delivery.event for found in await due(store)]
    assert await store.events.next_due_at(except_numbers=[found.delivery.number for found in await due(store)]) == 2e9
    await store.events.fail_delivery(first.number, Attempt(1.0, 1), status=None, error="gone", next_at=None)
    assert two in [found.delivery.event for found in await due(store) if found.webhook.webhook_id == "w1"]
    (dead,) = await store.events.list_deliveries("w1", is_dead=True, before=None, limit=9)
    assert (dead.event, dead.attempts, dead.status, dead.error) == (one, 2, None, "gone")
    assert not await store.events.revive_delivery("w2", dead.number, 5.0)
    assert await store.events.revive_delivery("w1", dead.number, 5.0)
    assert not await store.events.revive_delivery("w1", dead.number, 5.0)
    await store.events.end_delivery(dead.number, Attempt(1.0, 1))
    assert one not in [found.delivery.event for found in await due(store) if found.webhook.webhook_id == "w1"]
    assert not await store.events.list_due(1e9, except_numbers=(), except_teams=("t1",), limit=9)


async def test_attempts_are_counted_in_spans(store: SqlStore) -> None:
    """With their durations, for as long as events are kept, and as long as there is the webhook."""
    await told(store, event())
    (found,) = await due(store)
    number = found.delivery.number
    for at, duration_ms in ((600.5, 7), (899.9, 3), (900.0, 9)):
        await store.events.fail_delivery(number, Attempt(at, duration_ms), status=None, error="x", next_at=5.0)
    await store.events.end_delivery(number, Attempt(901.0, 1))
    await store.events.end_delivery(number, Attempt(902.0, 1))  # it has arrived before
    first = AttemptCount(began_at=600, total=2, failed=2, least_ms=3, most_ms=7, sum_ms=10)
    second = AttemptCount(began_at=900, total=2, failed=1, least_ms=1, most_ms=9, sum_ms=10)
    assert await store.events.count_attempts("w1", 600, 901) == [first, second]
    assert await store.events.count_attempts("w1", 601, 900) == []
    assert await store.events.count_attempts("w2", 0, 1e9) == []
    await store.events.prune_events(before=900.0, most_per_team=9)
    assert await store.events.count_attempts("w1", 0, 1e9) == [second]
    await store.events.delete_webhook("t1", "w1")
    assert await store.events.count_attempts("w1", 0, 1e9) == []


async def test_deliveries_of_a_webhook_are_bounded(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those above the bound are dead at once, and of the dead ones the newest are kept. A deleted webhook has none."""
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    monkeypatch.setattr(module, "MOST_DEAD", 2)
    await told(store, *(event() for _ in range(5)))
    waiting = await store.events.list_deliveries("w1", is_dead=False, before=None, limit=9)
    dead = await store.events.list_deliveries("w1", is_dead=True, before=None, limit=9)
    assert (len(waiting), len(dead)) == (3, 2)
    assert dead[0].error
    await store.events.fail_delivery(waiting[-1].number, Attempt(1.0, 1), status=None, error="x", next_at=None)
    assert [one.number for one in await store.events.list_deliveries("w1", is_dead=True, before=None, limit=9)] == [
        one.number for one in dead
    ]
    assert await store.events.delete_webhook("t1", "w1")
    assert not await store.events.list_deliveries("w1", is_dead=None, before=None, limit=9)


async def test_deliveries_that_never_waited_do_not_keep_their_events_for_ever(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are bounded with the events, though no attempt at this webhook ever ends."""
    monkeypatch.setattr(module, "MOST_WAITING", 1)
    monkeypatch.setattr(module, "MOST_DEAD", 2)
    events = [event() for _ in range(9)]
    await told(store, *events)
    assert await store.events.prune_events(before=1e9, most_per_team=1) == 6
    assert await listed(store) == [events[0], *events[7:]]
    assert [found.is_dead for found in await store.events.list_deliveries("w1", is_dead=None, before=None, limit=9)] == [True, True, False]


async def test_a_look_for_due_deliveries_takes_no_longer_for_those_that_wait_behind_others(tmp_path: Path) -> None:
    """One thread serves the whole store, keys of all teams too. So a look must not compare all deliveries of a webhook with each other."""
    store = await SqliteStore.open(tmp_path / "x.db")
    await filled(store)
    steps = []
    store._connection.set_progress_handler(lambda: steps.append(1), 100)  # it is called at every hundredth step of a statement
    costs = []
    for version in (1, 2):
        await told(store, *(replace(event(), sandbox_id=f"{version}x{number}") for number in range(250)), version=version)
        steps.clear()
        await store.events.list_due(1e9, except_numbers=(), except_teams=("t1",), limit=9)
        await store.events.next_due_at(except_numbers=())
        costs.append(len(steps))
    assert costs[1] < 3 * costs[0], costs
    await store.close()


async def test_events_are_bounded_by_age_and_number(store: SqlStore) -> None:
    """A team's newest are kept; those that a webhook still has to get are kept, too; another team's number is its own."""
    await store.events.delete_webhook("t1", "w1")
    events = [event(at=float(number)) for number in range(10)]
    others = [replace(event(at=float(number)), team_id="t2") for number in range(4)]
    await told(store, *sorted((*events, *others), key=lambda one: one.at))
    assert await store.events.prune_events(before=1.0, most_per_team=6) == 5
    assert (await listed(store), await listed(store, "t2")) == (events[4:], others[1:])
    await store.events.add_webhook(HOOK, most=9)
    waiting = event(at=0.0)
    await told(store, waiting, version=2)
    await store.events.prune_events(before=100.0, most_per_team=6)
    assert await listed(store) == [waiting]


async def test_a_removed_team_has_no_webhook(store: SqlStore) -> None:
    """Its webhooks go with it, with what waits for them, and it gets no new one."""
    await told(store, event())
    assert await store.teams.remove_team("t1", 50.0, even_with_sandboxes=True, ends_sandboxes=False)
    assert (list(await store.events.list_webhooks("t1")), await due(store)) == ([], [])
    with pytest.raises(PermissionDeniedError):
        await store.events.add_webhook(HOOK, most=9)


async def test_webhooks_are_a_teams_own(store: SqlStore) -> None:
    """Another team neither finds, changes nor deletes one, and the number of a team's is bounded."""
    assert await store.events.find_webhook("t1", "w1") == HOOK
    assert await store.events.find_webhook("t2", "w1") is None
    assert not await store.events.delete_webhook("t2", "w1")
    assert not await store.events.change_webhook(replace(HOOK, team_id="t2", version=2), expected_version=1)
    assert not await store.events.add_webhook(replace(HOOK, webhook_id="w2"), most=1)
    assert await store.events.change_webhook(replace(HOOK, url="https://b.example", version=2), expected_version=1)
    assert not await store.events.change_webhook(replace(HOOK, version=2), expected_version=1)
    assert [one.url for one in await store.events.list_webhooks("t1")] == ["https://b.example"]
