"""Deliveries to webhooks: in order, again after failures, bounded, and not lost by an end of the process."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloister.control import deliveries as module
from cloister.control.deliveries import Deliveries, sign
from cloister.control.lifecycle_events import LifecycleEvents, event_of
from cloister.control.webhooks import WebhookChange, Webhooks
from cloister.errors import UnavailableError
from cloister.model.event import EventType, LifecycleEvent
from cloister.model.sandbox import Sandbox, SandboxState
from cloister.model.secret import Secret
from cloister.model.team import Team
from cloister.store.sealing import SealingKeys
from cloister.store.sqlite import SqliteStore
from framework.waiting import eventually_async, turns


class Receivers:
    """Receivers by URL: each has a list of answers, of which the last stays; it may be kept waiting."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: dict[str, list[int | None]] = {}
        self.gates: dict[str, asyncio.Event] = {}

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """The next answer of the URL."""
        self.got.append((url, headers, body))
        if url in self.gates:
            await self.gates[url].wait()
        answers = self.answers.get(url, [200])
        status = answers.pop(0) if len(answers) > 1 else answers[0]
        if status is None:
            raise UnavailableError("the receiver could not be reached")
        return status

    def ids(self, url: str) -> list[str]:
        """The ids of the events that came to the URL, repeated ones too."""
        return [json.loads(body)["id"] for one, _, body in self.got if one == url]


class Lab:
    """Deliveries over a real store."""

    def __init__(self, store: SqliteStore, keys: SealingKeys) -> None:
        self.store = store
        self.receivers = Receivers()
        self.webhooks = Webhooks(store.events, keys, lambda _: None, most=100)
        self._versions: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Deliveries]:
        """A process that delivers, while the block lasts."""
        events = LifecycleEvents(self.store.events, retention_s=1e9, most_per_team=1000)
        self.deliveries = Deliveries(self.store.events, self.webhooks, events, self.receivers)
        self.deliveries.start()
        yield self.deliveries
        await self.deliveries.close()

    async def hook(self, url: str, team_id: str = "t1") -> str:
        """A webhook for all events; its id."""
        change = WebhookChange(name="n", url=url, events=tuple(EventType), secret=Secret("signing"))
        return (await self.webhooks.create(team_id, change)).webhook_id

    async def tell(self, letter: str, *kinds: EventType, team_id: str = "t1") -> list[LifecycleEvent]:
        """Store events of a sandbox, which is made if it is new."""
        row = Sandbox(
            sandbox_id=letter * 20,
            team_id=team_id,
            template_id="base",
            template="base",
            state=SandboxState.RUNNING,
            started_at=1e9,
            end_at=2e9,
            cpu_count=1,
            mem_mib=512,
            disk_mib=1024,
        )
        if letter not in self._versions:
            await self.store.add_sandbox(row)
            self._versions[letter] = 1
        events = [event_of(row, kind, 1e9) for kind in kinds]
        version = self._versions[letter]
        self._versions[letter] += 1
        changed = Sandbox(**{**vars(row), "version": version + 1})
        assert await self.store.change_sandbox(changed, expected_version=version, events=events)
        return events

    async def states(self, webhook_id: str) -> list[tuple[str, bool]]:
        """The deliveries of a webhook that are there, oldest first: event, and whether it is dead."""
        found = await self.store.events.list_deliveries(webhook_id, is_dead=None, before=None, limit=99)
        return [(one.event.event_id, one.is_dead) for one in reversed(found)]


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    """A lab with two teams, and short waits."""
    monkeypatch.setattr(module, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(module, "_PAUSE_S", 0.001)
    store = await SqliteStore.open(tmp_path / "x.db")
    for team_id in ("t1", "t2"):
        await store.teams.add_team(Team(team_id=team_id, name=team_id, created_at=0))
    keys = SealingKeys(tmp_path / "secrets.key")
    keys.open()
    yield Lab(store, keys)
    await store.close()


async def test_events_of_a_sandbox_arrive_in_order_though_the_first_fails(lab: Lab) -> None:
    """A later event waits for an earlier one of its sandbox, and not for those of another."""
    webhook_id = await lab.hook("https://a.example/x")
    lab.receivers.answers["https://a.example/x"] = [500, None, 204]
    async with lab.running() as deliveries:
        events = await lab.tell("a", EventType.CREATED, EventType.UPDATED, EventType.KILLED)
        deliveries.look(3)
        await eventually_async(lambda: len(lab.receivers.got) == 5)
        await turns()
    ids = [event.event_id for event in events]
    assert lab.receivers.ids("https://a.example/x") == [ids[0], ids[0], *ids]
    assert len({headers["e2b-delivery-id"] for _, headers, _ in lab.receivers.got}) == 5
    assert await lab.states(webhook_id) == []


async def test_a_delivery_that_fails_for_long_is_given_up_and_can_be_sent_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of attempts is bounded. Then the next event of the sandbox is delivered."""
    monkeypatch.setattr(module, "_ATTEMPTS", 3)
    webhook_id = await lab.hook("https://a.example/x")
    lab.receivers.answers["https://a.example/x"] = [302, 404, None, 200]
    async with lab.running() as deliveries:
        first, second = await lab.tell("a", EventType.CREATED, EventType.KILLED)
        deliveries.look()
        await eventually_async(lambda: len(lab.receivers.got) == 4)
        await turns()
        assert lab.receivers.ids("https://a.example/x")[-1] == second.event_id
        assert await lab.states(webhook_id) == [(first.event_id, True)]
        (dead,) = await lab.webhooks.deliveries("t1", webhook_id, is_dead=True, before=None, limit=9)
        assert (dead.attempts, dead.error) == (3, "the receiver could not be reached")
        await lab.webhooks.send_again("t1", webhook_id, dead.number)
        deliveries.look()
        await eventually_async(lambda: len(lab.receivers.got) == 5)
        await turns()
    assert lab.receivers.ids("https://a.example/x")[-1] == first.event_id
    assert await lab.states(webhook_id) == []


async def test_a_process_that_ends_during_an_attempt_loses_nothing(lab: Lab) -> None:
    """The next process makes the attempt again: the receiver sees the same event twice at worst."""
    await lab.hook("https://a.example/x")
    lab.receivers.gates["https://a.example/x"] = asyncio.Event()
    async with lab.running() as deliveries:
        (event,) = await lab.tell("a", EventType.CREATED)
        deliveries.look()
        await eventually_async(lambda: lab.receivers.got)
    lab.receivers.gates.clear()
    async with lab.running():
        await eventually_async(lambda: len(lab.receivers.got) == 2)
    assert lab.receivers.ids("https://a.example/x") == [event.event_id] * 2


@pytest.mark.parametrize("status", [200, 500])
async def test_a_receiver_gets_an_event_once_while_the_disk_is_full(lab: Lab, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """The outcome of an attempt is stored when there is space again; meanwhile the attempt is not repeated."""
    monkeypatch.setattr(module, "_AGAIN_S", 0.01)
    url, connection = "https://a.example/x", lab.store._connection
    webhook_id = await lab.hook(url)
    lab.receivers.answers[url] = [status, 200]
    for change in ("DELETE", "UPDATE"):
        connection.execute(f"CREATE TRIGGER full_{change} BEFORE {change} ON webhook_deliveries BEGIN SELECT RAISE(ABORT, 'full'); END")
    async with lab.running() as deliveries:
        (event,) = await lab.tell("a", EventType.CREATED)
        deliveries.look()
        await eventually_async(lambda: lab.receivers.got)
        await asyncio.sleep(0.1)
        assert lab.receivers.ids(url) == [event.event_id]
        for change in ("DELETE", "UPDATE"):
            connection.execute(f"DROP TRIGGER full_{change}")
        await eventually_async(lambda: len(lab.receivers.got) == (1 if status == 200 else 2))
        await asyncio.sleep(0.05)
    assert await lab.states(webhook_id) == []


async def test_a_slow_receiver_of_one_team_does_not_hold_up_another(lab: Lab) -> None:
    """A team has a bounded number of attempts under way, however many of its deliveries are due first."""
    await lab.hook("https://slow.example/x")
    await lab.hook("https://fast.example/x", "t2")
    gate = lab.receivers.gates["https://slow.example/x"] = asyncio.Event()
    for letter in "abcdefghijklmnopqrstuvwxy":
        for _ in range(3):
            await lab.tell(letter, EventType.UPDATED)
    await lab.tell("z", EventType.CREATED, team_id="t2")
    async with lab.running():
        await eventually_async(lambda: lab.receivers.ids("https://fast.example/x"))
        assert len(lab.receivers.ids("https://slow.example/x")) == module._AT_ONCE_PER_TEAM
        gate.set()
        await eventually_async(lambda: len(lab.receivers.ids("https://slow.example/x")) == 75)


async def test_a_webhook_that_is_switched_off_or_deleted_gets_no_more(lab: Lab) -> None:
    """Switched on again it gets what waited; events from meanwhile it does not."""
    url = "https://a.example/x"
    webhook_id = await lab.hook(url)
    (event,) = await lab.tell("a", EventType.CREATED)
    await lab.webhooks.change("t1", webhook_id, WebhookChange(enabled=False))
    await lab.tell("a", EventType.UPDATED)
    async with lab.running() as deliveries:
        await turns()
        assert lab.receivers.got == []
        await lab.webhooks.change("t1", webhook_id, WebhookChange(enabled=True))
        deliveries.look()
        await eventually_async(lambda: lab.receivers.ids(url) == [event.event_id])
        await turns()
        await lab.webhooks.delete("t1", webhook_id)
        await lab.tell("a", EventType.KILLED)
        deliveries.look()
        await turns()
    assert lab.receivers.ids(url) == [event.event_id]


def test_a_signature_is_the_same_in_both_alphabets() -> None:
    """Both published verifiers accept it, and the body stays the same JSON."""
    for number in range(50):
        body, text = sign("sécret", json.dumps({"number": number}).encode())
        assert json.loads(body) == {"number": number}
        digest = hashlib.sha256("sécret".encode() + body).digest()
        assert text == base64.b64encode(digest).decode().rstrip("=") == base64.urlsafe_b64encode(digest).decode().rstrip("=")


async def test_an_unexpected_fault_is_an_attempt_that_failed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noted with its kind, and made again after the wait of any failure. Without a note it would be made again at once, for ever."""
    monkeypatch.setattr(module, "_ATTEMPTS", 2)
    webhook_id = await lab.hook("https://a.example/x")
    tries = []

    async def post(*_arguments: object) -> int:
        tries.append(1)
        raise RuntimeError("a fault of the server")

    monkeypatch.setattr(lab.receivers, "post", post)
    async with lab.running() as deliveries:
        await lab.tell("a", EventType.CREATED)
        deliveries.look(1)

        async def given_up() -> bool:
            return [is_dead for _, is_dead in await lab.states(webhook_id)] == [True]

        async with asyncio.timeout(20):
            while not await given_up():
                await turns()
        (dead,) = await lab.webhooks.deliveries("t1", webhook_id, is_dead=True, before=None, limit=9)
        assert (dead.attempts, dead.error, len(tries)) == (2, "the server failed: RuntimeError", 2)
