"""How the supervisor ends sandboxes: a kill is done when the processes are dead; giving back goes on behind, bounded."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.errors import AlreadyExistsError, NoCapacityError
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxRequest, SandboxState
from cloister.node import supervisor as supervisor_module
from cloister.node.journal import Journal
from cloister.node.maker import Maker
from cloister.node.pool import Pooled, PoolSize
from cloister.node.supervisor import Supervisor
from cloister.runtime.base import Usage


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

    def dial(self) -> socket.socket:
        """Not needed here."""
        raise NotImplementedError

    def usage(self) -> Usage:
        """Nothing."""
        raise OSError

    def cpu_used_s(self) -> float:
        """Nothing."""
        return 0.0

    def kill(self) -> None:
        """Its processes end at once."""
        os.close(self._writer)

    def release(self) -> None:
        """Give everything back, when it may."""
        assert self._may_release.wait(10)
        os.close(self.pidfd)


class FakeCreator:
    """Makes fake sandboxes, with a journal entry each."""

    def __init__(self, journal: Journal, may_release: threading.Event) -> None:
        self._journal = journal
        self._may_release = may_release

    def create(self, request: SandboxRequest, _pooled: Pooled | None) -> tuple[SandboxRecord, FakeSandbox]:
        """See :class:`Creator`."""
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
        return record, FakeSandbox(self._may_release)


@pytest.fixture
def may_release() -> Iterator[threading.Event]:
    """Lets sandboxes be given back; set at the end in any case."""
    event = threading.Event()
    yield event
    event.set()


def supervisor_on(journal: Journal, may_release: threading.Event) -> Supervisor:
    """A supervisor of fake sandboxes."""
    creator, host = FakeCreator(journal, may_release), SimpleNamespace(network=SimpleNamespace(take_refusals=list))
    maker = Maker(cast("Any", creator), cast("Any", None), lambda _key: True, PoolSize(0))
    return Supervisor(cast("Any", host), cast("Any", None), journal, maker, ())


def request(name: str) -> SandboxRequest:
    """One that lives for a minute."""
    return SandboxRequest(sandbox_id=name, template="t", end_at=time.time() + 60)


async def test_a_kill_does_not_wait_for_what_is_given_back(tmp_path: Path, may_release: threading.Event) -> None:
    """It is answered and nobody sees the sandbox any more, while its entry stays in the journal and its id is taken until all is gone."""
    journal = Journal(tmp_path / "j")
    supervisor = supervisor_on(journal, may_release)
    await supervisor.create(request("one"))
    assert await asyncio.wait_for(supervisor.kill("one", EndReason.KILLED), 5)
    assert await supervisor.list() == []
    assert not await supervisor.kill("one", EndReason.KILLED)
    assert [entry.record.sandbox_id for entry in journal.entries()[0]] == ["one"]
    with pytest.raises(AlreadyExistsError):
        await supervisor.create(request("one"))
    may_release.set()
    await supervisor.stop(keep_sandboxes=True)
    assert journal.entries() == ([], [])


async def test_a_stop_waits_until_everything_is_given_back(tmp_path: Path, may_release: threading.Event) -> None:
    """Its sandboxes are ended, and nothing is cut off."""
    journal = Journal(tmp_path / "j")
    supervisor = supervisor_on(journal, may_release)
    for name in ("one", "two", "three"):
        await supervisor.create(request(name))
    await supervisor.kill("one", EndReason.KILLED)
    stopping = asyncio.create_task(supervisor.stop(keep_sandboxes=False))
    done, _ = await asyncio.wait([stopping], timeout=0.2)
    assert not done
    may_release.set()
    await asyncio.wait_for(stopping, 5)
    assert journal.entries() == ([], [])


async def test_dead_sandboxes_cannot_pile_up(tmp_path: Path, may_release: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many dead ones as there may be, a kill waits for one to be gone."""
    monkeypatch.setattr(supervisor_module, "_DEAD_MAX", 2)
    supervisor = supervisor_on(Journal(tmp_path / "j"), may_release)
    for name in ("one", "two", "three"):
        await supervisor.create(request(name))
    for name in ("one", "two"):
        await asyncio.wait_for(supervisor.kill(name, EndReason.KILLED), 5)
    third = asyncio.create_task(supervisor.kill("three", EndReason.KILLED))
    done, _ = await asyncio.wait([third], timeout=0.2)
    assert not done
    may_release.set()
    assert await asyncio.wait_for(third, 5)
    await supervisor.stop(keep_sandboxes=True)


async def test_a_stop_ends_the_pool_though_what_it_makes_fails(tmp_path: Path, may_release: threading.Event) -> None:
    """A sandbox that is being made ahead when the stop comes, and cannot be made, does not keep the pool going."""
    supervisor = supervisor_on(Journal(tmp_path / "j"), may_release)
    began, fail = threading.Event(), threading.Event()

    def make_ahead(_template: str, _sandbox_id: str) -> Pooled:
        began.set()
        assert fail.wait(10)
        raise NoCapacityError("the disk is full")

    maker = supervisor._maker
    maker._creator = cast("Any", SimpleNamespace(make_ahead=make_ahead, prepare=lambda _template: None))
    maker._pool._size = PoolSize(1, ("t",))
    maker._pool.want("t")
    maker.run()
    assert await asyncio.to_thread(began.wait, 5)
    stopping = asyncio.create_task(supervisor.stop(keep_sandboxes=False))
    await asyncio.sleep(0.05)
    fail.set()
    await asyncio.wait_for(stopping, 3)


async def test_a_stop_right_after_a_drop_leaves_nothing_of_what_is_being_made(tmp_path: Path, may_release: threading.Event) -> None:
    """Both give up the making, and what comes of it all the same is ended before the stop is over."""
    supervisor = supervisor_on(Journal(tmp_path / "j"), may_release)
    began, go_on = threading.Event(), threading.Event()
    made: list[str] = []
    discarded: list[str] = []

    def make_ahead(_template: str, sandbox_id: str) -> Any:
        began.set()
        assert go_on.wait(10)
        made.append(sandbox_id)
        return SimpleNamespace(sandbox=None)

    def discard(sandbox_id: str, _sandbox: object) -> None:
        time.sleep(0.1)
        discarded.append(sandbox_id)

    maker = supervisor._maker
    maker._creator = cast("Any", SimpleNamespace(make_ahead=make_ahead, prepare=lambda _template: None, discard=discard))
    maker._pool._size = PoolSize(1)
    maker._pool.want("t")
    maker.run()
    assert await asyncio.to_thread(began.wait, 5)
    maker.end_made_ahead("t")
    stopping = asyncio.create_task(supervisor.stop(keep_sandboxes=False))
    await asyncio.sleep(0.05)
    go_on.set()
    await asyncio.wait_for(stopping, 5)
    assert len(made) == 1
    assert discarded == made
    assert maker.ids() == set()
