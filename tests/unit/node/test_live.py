"""How the supervisor ends sandboxes: a kill returns when the processes are dead, and the release follows, up to a bound."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.errors import AlreadyExistsError, NoCapacityError, RuntimeFailedError
from cloister.model.node import SandboxUsage
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxRequest, SandboxState
from cloister.model.template import Template
from cloister.node import background, live, sweeper
from cloister.node.creation.pool import PoolKey, PoolSize
from cloister.node.creation.steps import Created
from cloister.node.journal import Found, Journal
from cloister.nodewire.requests import AskEnds, Kill
from cloister.protocol.dialled import Dialled
from framework.node_parts import NodeParts
from framework.waiting import turns

FOUND = SimpleNamespace(
    build_id="b", zone_key="z", zone_team="", limits=Limits(), template=Template(template_id="t", name="t", build_id="b", layers=())
)
"""The template of every fake sandbox."""


class FakeSandbox:
    """A sandbox that is a pipe; :meth:`release` waits for ``may_release``."""

    cold: tuple[str, ...] = ()
    starting: int | None = None
    network_slot = 1

    def __init__(self, may_release: threading.Event) -> None:
        self.pidfd, self._writer = os.pipe()
        self._may_release = may_release

    def state(self) -> dict[str, Any]:
        """Nothing to adopt."""
        return {}

    def dial(self) -> Dialled:
        """Not needed here."""
        raise NotImplementedError

    def usage(self) -> SandboxUsage:
        """Nothing."""
        raise OSError

    def cpu_used_s(self) -> float:
        """Nothing."""
        return 0.0

    def kill(self) -> None:
        """Its processes end at once."""
        os.close(self._writer)

    def release(self) -> None:
        """Release everything, when the test lets it."""
        assert self._may_release.wait(10)
        os.close(self.pidfd)


class FakeSteps:
    """Makes fake sandboxes, with a journal entry each."""

    def __init__(self, journal: Journal, may_release: threading.Event) -> None:
        self._journal = journal
        self._may_release = may_release

    def choose_runtime(self, _request: SandboxRequest, _template: object) -> str:
        """See :class:`CreationSteps`."""
        return "fake"

    def resolve(self, _template: str, _team_id: str | None) -> Any:
        """See :class:`CreationSteps`."""
        return FOUND

    def make(self, request: SandboxRequest, _template: object) -> Created:
        """See :class:`CreationSteps`."""
        record = SandboxRecord(
            sandbox_id=request.sandbox_id,
            template="t",
            runtime="fake",
            state=SandboxState.RUNNING,
            started_at=time.time(),
            end_at=request.end_at,
            limits=Limits(),
        )
        self._journal.write(record, {})
        return Created(record=record, sandbox=cast("Any", FakeSandbox(self._may_release)))


@pytest.fixture
def may_release() -> Iterator[threading.Event]:
    """Lets sandboxes be released; set at the end in any case."""
    event = threading.Event()
    yield event
    event.set()


def parts_on(directory: Path, may_release: threading.Event, guards: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()) -> NodeParts:
    """A node of fake sandboxes."""
    return NodeParts(directory, lambda journal: FakeSteps(journal, may_release), guards=guards)


def request(name: str) -> SandboxRequest:
    """One that lives for a minute."""
    return SandboxRequest(sandbox_id=name, template="t", end_at=time.time() + 60)


async def test_a_kill_does_not_wait_for_the_release(tmp_path: Path, may_release: threading.Event) -> None:
    """It returns, and no list has the sandbox any more. Its journal entry stays and its id is taken until all is released."""
    node = parts_on(tmp_path, may_release)
    await node.handlers.create(request("one"))
    assert await asyncio.wait_for(node.handlers.kill(Kill("one", EndReason.KILLED)), 5)
    assert node.handlers.live.running() == []
    assert not await node.handlers.kill(Kill("one", EndReason.KILLED))
    assert [entry.record.sandbox_id for entry in node.journal.entries().entries] == ["one"]
    with pytest.raises(AlreadyExistsError):
        await node.handlers.create(request("one"))
    may_release.set()
    await node.supervisor.stop(keep_sandboxes=True)
    assert node.journal.entries() == Found()


async def test_a_stop_waits_until_everything_is_given_back(tmp_path: Path, may_release: threading.Event) -> None:
    """Its sandboxes are ended, and nothing is cut off."""
    node = parts_on(tmp_path, may_release)
    for name in ("one", "two", "three"):
        await node.handlers.create(request(name))
    await node.handlers.kill(Kill("one", EndReason.KILLED))
    stopping = asyncio.create_task(node.supervisor.stop(keep_sandboxes=False))
    done, _ = await asyncio.wait([stopping], timeout=0.2)
    assert not done
    may_release.set()
    await asyncio.wait_for(stopping, 5)
    assert node.journal.entries() == Found()


async def test_dead_sandboxes_cannot_pile_up(tmp_path: Path, may_release: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many dead ones as there may be, a kill waits for one to be gone."""
    monkeypatch.setattr(live, "_MAX_UNRELEASED", 2)
    node = parts_on(tmp_path, may_release)
    for name in ("one", "two", "three"):
        await node.handlers.create(request(name))
    for name in ("one", "two"):
        await asyncio.wait_for(node.handlers.kill(Kill(name, EndReason.KILLED)), 5)
    third = asyncio.create_task(node.handlers.kill(Kill("three", EndReason.KILLED)))
    done, _ = await asyncio.wait([third], timeout=0.2)
    assert not done
    may_release.set()
    assert await asyncio.wait_for(third, 5)
    await node.supervisor.stop(keep_sandboxes=True)


async def test_a_stop_ends_the_pool_though_what_it_makes_fails(tmp_path: Path, may_release: threading.Event) -> None:
    """A sandbox that is being made ahead when the stop comes, and cannot be made, does not keep the pool going."""
    node = parts_on(tmp_path, may_release)
    began, fail = threading.Event(), threading.Event()

    def make(_request: SandboxRequest, _template: object, *, is_for_client: bool) -> Created:
        assert not is_for_client
        began.set()
        assert fail.wait(10)
        raise NoCapacityError("the disk is full")

    creator = node.creator
    choice = {"choose_runtime": lambda *_: "fake", "can_make_ahead": lambda _: True}
    creator._steps = cast("Any", SimpleNamespace(make=make, resolve=lambda *_: FOUND, prepare=lambda *_: None, **choice))
    creator._pool._size = PoolSize(1, ("t",))
    creator._pool.heat(PoolKey("t"))
    creator.run()
    assert await asyncio.to_thread(began.wait, 5)
    stopping = asyncio.create_task(node.supervisor.stop(keep_sandboxes=False))
    await asyncio.sleep(0.05)
    fail.set()
    await asyncio.wait_for(stopping, 3)


async def test_a_stop_right_after_a_drop_leaves_nothing_of_what_is_being_made(tmp_path: Path, may_release: threading.Event) -> None:
    """Both give up the making, and what comes of it all the same is ended before the stop is over."""
    node = parts_on(tmp_path, may_release)
    began, go_on = threading.Event(), threading.Event()
    made: list[str] = []
    discarded: list[str] = []

    def make(request: SandboxRequest, _template: object, *, is_for_client: bool) -> Created:
        assert not is_for_client
        began.set()
        assert go_on.wait(10)
        made.append(request.sandbox_id)
        return Created(record=cast("Any", request), sandbox=cast("Any", None))

    def discard(sandbox_id: str, _sandbox: object) -> None:
        time.sleep(0.1)
        discarded.append(sandbox_id)

    creator = node.creator
    choice = {"choose_runtime": lambda *_: "fake", "can_make_ahead": lambda _: True}
    creator._steps = cast("Any", SimpleNamespace(make=make, resolve=lambda *_: FOUND, prepare=lambda *_: None, discard=discard, **choice))
    creator._pool._size = PoolSize(1)
    creator._pool.heat(PoolKey("t"))
    creator.run()
    assert await asyncio.to_thread(began.wait, 5)
    creator.drop_build("t")
    stopping = asyncio.create_task(node.supervisor.stop(keep_sandboxes=False))
    await asyncio.sleep(0.05)
    go_on.set()
    await asyncio.wait_for(stopping, 5)
    assert len(made) == 1
    assert discarded == made
    assert creator.ids() == set()


@pytest.mark.parametrize("asked_by", ["a client", "the sweep"])
async def test_an_end_that_failed_is_tried_again(
    tmp_path: Path, may_release: threading.Event, monkeypatch: pytest.MonkeyPatch, asked_by: str
) -> None:
    """A sandbox whose processes wait for the disk when they are killed is not kept for ever: a later kill ends it, or a sweep does."""
    may_release.set()
    node, kill, tries = parts_on(tmp_path, may_release), FakeSandbox.kill, list[str]()

    def kill_late(sandbox: FakeSandbox) -> None:
        tries.append("kill")
        if len(tries) == 1:
            raise RuntimeFailedError("it did not end after SIGKILL")
        kill(sandbox)

    monkeypatch.setattr(FakeSandbox, "kill", kill_late)
    if asked_by == "the sweep":
        monkeypatch.setattr(sweeper, "_INTERVAL_S", 0.01)
        await node.supervisor.start()
    await node.handlers.create(request("one"))
    with pytest.raises(RuntimeFailedError):
        await node.handlers.kill(Kill("one", EndReason.EXPIRED))
    if asked_by == "a client":
        assert await node.handlers.kill(Kill("one", EndReason.KILLED))
    async with asyncio.timeout(20):
        while node.journal.entries() != Found():
            await turns(1)
    assert [ended.reason for ended in await node.handlers.ended(AskEnds(("one",)))] == [EndReason.EXPIRED]
    await node.supervisor.stop(keep_sandboxes=True)


async def test_a_guard_that_meets_the_unexpected_begins_again(
    tmp_path: Path, may_release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that no guard expects does not leave sandboxes without it."""
    monkeypatch.setattr(background, "_RESTART_S", 0.0)
    looks: list[float] = []

    async def guard() -> None:
        looks.append(time.monotonic())
        raise ValueError

    node = parts_on(tmp_path, may_release, guards=[guard])
    await node.supervisor.start()
    async with asyncio.timeout(20):
        while len(looks) < 3:
            await turns(1)
    await node.supervisor.stop(keep_sandboxes=True)
