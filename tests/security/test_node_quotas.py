"""How much a compromised api process can have of the root supervisor: lifetimes, sandboxes, builds, snapshots, the resolver's sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.errors import InvalidRequestError, NoCapacityError, QuotaExceededError, SandboxNotFoundError
from cloister.ids import new_build_id, new_sandbox_id
from cloister.model.build import BuildRequest
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxRequest, SandboxState
from cloister.model.template import Template
from cloister.node.builds.queue import BuildQueue, QueueLimits
from cloister.node.builds.records import BuildRecords
from cloister.node.creation.steps import Created
from cloister.node.journal import Journal
from cloister.node.limits import NodeLimits, with_slack
from cloister.nodewire.requests import Kill, PauseSandbox, ResumeSandbox, SandboxRef, SetDeadline, TakeSnapshot
from cloister.protocol.dialled import Dialled, on_loopback
from cloister.runtime.base import RuntimeCapabilities
from framework.node_parts import NodeParts
from framework.waiting import turns

HOUR_S = 3600.0
BOUNDS = NodeLimits(
    cpu_count=1, mem_mib=1 << 20, disk_mib=1 << 20, lifetime_s=HOUR_S, sandboxes=12, team_sandboxes=4, paused=4, team_paused=1, paused_s=0.5
)


class PipeSandbox:
    """A sandbox that is a pipe."""

    cold: tuple[str, ...] = ()
    starting: int | None = None
    capabilities = RuntimeCapabilities(freeze=True)

    def __init__(self) -> None:
        self.pidfd, self._writer = os.pipe()

    def dial(self) -> Dialled:
        """Its agent does not answer."""
        return on_loopback(socket.socket())

    def freeze(self) -> None:
        """It does nothing anyway."""

    def thaw(self) -> None:
        """Likewise."""

    def state(self) -> dict[str, Any]:
        """Nothing to adopt."""
        return {}

    def usage(self) -> None:
        """It has none."""
        raise OSError

    def kill(self) -> None:
        """Its processes end at once."""
        os.close(self._writer)

    def release(self) -> None:
        """Give everything back."""
        os.close(self.pidfd)


class PipeSteps:
    """Makes such sandboxes, and keeps count."""

    def __init__(self) -> None:
        self._journal: Journal | None = None
        self.counts = Counter[str]()
        self.opened: list[socket.socket] = []

    def on(self, journal: Journal) -> PipeSteps:
        """This, which writes to the journal."""
        self._journal = journal
        return self

    def resolve(self, _template: str, _team_id: str | None) -> Any:
        """See :class:`CreationSteps`."""
        found = Template(template_id="t", name="t", build_id="b", layers=())
        return SimpleNamespace(build_id="b", zone_key="z", zone_team="", limits=Limits(), template=found)

    def choose_runtime(self, _request: SandboxRequest, _template: object) -> str:
        """See :class:`CreationSteps`."""
        return "fake"

    def make(self, request: SandboxRequest, _template: object) -> Created:
        """See :class:`CreationSteps`."""
        self.counts["made"] += 1
        record = SandboxRecord(
            sandbox_id=request.sandbox_id,
            template="t",
            runtime="fake",
            state=SandboxState.RUNNING,
            started_at=time.time(),
            end_at=request.end_at,
            limits=Limits(),
            team_id=request.team_id,
        )
        assert self._journal is not None
        self._journal.write(record, {})
        return Created(record=record, sandbox=cast("Any", PipeSandbox()))

    def sockets(self) -> tuple[socket.socket, socket.socket]:
        """The resolver's; blocks a little, as the real ones do."""
        self.counts["sockets"] += 1
        time.sleep(0.05)
        self.opened += (pair := socket.socketpair())
        return pair

    def close(self) -> None:
        """Close the sockets."""
        for sock in self.opened:
            sock.close()


class Node:
    """A supervisor whose bounds are small."""

    def __init__(self, directory: Path) -> None:
        self.snapshots, self.steps = SimpleNamespace(of=lambda *_: None), PipeSteps()
        parts = NodeParts(directory, self.steps.on, limits=BOUNDS, snapshots=self.snapshots, open_sockets=self.steps.sockets)
        self.journal, self.handlers, self.supervisor = parts.journal, parts.handlers, parts.supervisor

    async def create(self, team_id: str = "one", end_at: float | None = None) -> SandboxRecord:
        """One more sandbox."""
        until = time.time() + 60 if end_at is None else end_at
        return await self.handlers.create(SandboxRequest(sandbox_id=new_sandbox_id(), template="t", end_at=until, team_id=team_id))


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """One for each test; all its sandboxes end."""
    node = Node(tmp_path)
    yield node
    await node.supervisor.stop(keep_sandboxes=False)
    node.steps.close()


async def test_api_process_cannot_have_a_sandbox_outlive_its_time_when_created(node: Node) -> None:
    """A deadline beyond the longest lifetime is refused, before anything is made; the longest one is not."""
    for too_late in (time.time() + HOUR_S + 120, 1e11, float("inf"), float("nan"), -1.0):
        with pytest.raises(InvalidRequestError, match="lives for 3600 seconds"):
            await node.create(end_at=too_late)
    assert node.steps.counts["made"] == 0
    await node.create(end_at=time.time() + HOUR_S)


async def test_api_process_cannot_have_a_sandbox_outlive_its_time_when_prolonged(node: Node) -> None:
    """The refused deadline changes neither what is told nor what the journal says."""
    record = await node.create()
    for too_late in (time.time() + HOUR_S + 120, 1e11, float("inf"), float("nan"), -1.0):
        with pytest.raises(InvalidRequestError, match="lives for 3600 seconds"):
            await node.handlers.set_deadline(SetDeadline(record.sandbox_id, too_late))
    assert (await node.handlers.get(SandboxRef(record.sandbox_id))).end_at == record.end_at
    assert [entry.record.end_at for entry in node.journal.entries().entries] == [record.end_at]
    await node.handlers.set_deadline(SetDeadline(record.sandbox_id, time.time() + HOUR_S))


async def test_api_process_cannot_have_more_sandboxes_than_the_server_has_room_for(node: Node) -> None:
    """A team has its bound, and all teams together have one, whatever teams are made up, also when all are asked for at once."""
    asked = await asyncio.gather(*(node.create("one") for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(one, SandboxRecord) for one in asked) == with_slack(4) == 6
    assert {type(one) for one in asked} == {SandboxRecord, QuotaExceededError}
    asked = await asyncio.gather(*(node.create(f"made up {number}") for number in range(20)), return_exceptions=True)
    assert sum(isinstance(one, SandboxRecord) for one in asked) == 12 - 6
    assert {type(one) for one in asked} == {SandboxRecord, NoCapacityError}
    assert node.steps.counts["made"] == len(node.handlers.live.running()) == 12
    assert await node.handlers.kill(Kill(node.handlers.live.running()[0].sandbox_id))
    await node.create("two")


async def test_api_process_cannot_have_a_sandbox_outlive_its_time_when_resumed(node: Node) -> None:
    """The refused deadline leaves it paused; the longest one does not."""
    record = await node.create()
    await node.handlers.pause(PauseSandbox(record.sandbox_id))
    for too_late in (time.time() + HOUR_S + 120, 1e11, float("inf"), float("nan"), -1.0):
        with pytest.raises(InvalidRequestError, match="lives for 3600 seconds"):
            await node.handlers.resume(ResumeSandbox(record.sandbox_id, too_late))
    assert (await node.handlers.get(SandboxRef(record.sandbox_id))).is_frozen
    await node.handlers.resume(ResumeSandbox(record.sandbox_id, time.time() + HOUR_S))


async def test_api_process_cannot_have_a_sandbox_outlive_its_time_when_paused(node: Node) -> None:
    """A pause that lasts for longer than the node allows ends, and a pause of a paused one does not begin it anew."""
    record = await node.create()
    until = time.monotonic() + 10
    with contextlib.suppress(SandboxNotFoundError):
        while time.monotonic() < until:
            await node.handlers.pause(PauseSandbox(record.sandbox_id))
            await asyncio.sleep(0.01)
    assert [end.reason for end in node.handlers.ends.find([record.sandbox_id])] == [EndReason.PAUSED_TOO_LONG]


async def test_api_process_cannot_have_more_paused_sandboxes_than_there_may_be(node: Node) -> None:
    """A team has its bound, and all teams together have one, also when all are paused at once; the others run on."""
    mine = [await node.create("one") for _ in range(6)]
    asked = [node.handlers.pause(PauseSandbox(record.sandbox_id)) for record in mine]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert Counter(map(type, results)) == {SandboxRecord: with_slack(1), QuotaExceededError: 6 - with_slack(1)}
    others = [await node.create(f"made up {number}") for number in range(6)]
    results = await asyncio.gather(*(node.handlers.pause(PauseSandbox(one.sandbox_id)) for one in others), return_exceptions=True)
    assert Counter(map(type, results)) == {SandboxRecord: 4 - with_slack(1), NoCapacityError: 6 - (4 - with_slack(1))}


async def test_api_process_cannot_get_places_by_pausing(node: Node) -> None:
    """A paused sandbox gives its place to another of the team, and none is free for it then."""
    first = await node.create("one")
    await node.handlers.pause(PauseSandbox(first.sandbox_id))
    others = [await node.create("one") for _ in range(with_slack(4))]
    with pytest.raises(QuotaExceededError, match="6 live sandboxes"):
        await node.handlers.resume(ResumeSandbox(first.sandbox_id, time.time() + 60))
    await node.handlers.kill(Kill(others[0].sandbox_id))
    await node.handlers.resume(ResumeSandbox(first.sandbox_id, time.time() + 60))


async def test_api_process_cannot_have_more_snapshots_wait_than_there_may_be(node: Node) -> None:
    """Those beyond the bound of a team, or of all, are refused at once, and room comes back with each that is taken."""
    records, go_on = [await node.create(team) for team in ("one", "two", "three")], threading.Event()
    node.snapshots.of = lambda *_: go_on.wait(20)

    def ask(record: SandboxRecord) -> asyncio.Task[Any]:
        return asyncio.create_task(node.handlers.snapshot(TakeSnapshot(record.sandbox_id, new_build_id(), "t", "n")))

    asked = [ask(record) for record in records for _ in range(50)]
    await turns()
    refused = [one for one in asked if one.done()]
    go_on.set()
    kinds = Counter(type(one.exception()) for one in refused)
    assert kinds == {QuotaExceededError: 50 - 32, NoCapacityError: 150 - 50 - 32}
    await asyncio.gather(*(one for one in asked if one not in refused))
    assert await ask(records[2])


async def test_team_cannot_hold_up_the_snapshots_of_another(node: Node) -> None:
    """While a team has more of them than there are threads, and none ends, another team's is taken."""
    slow, quick = await node.create("one"), await node.create("two")
    go_on = threading.Event()
    node.snapshots.of = lambda record, *_: record.team_id == "two" or go_on.wait(20)

    def ask(record: SandboxRecord) -> asyncio.Task[Any]:
        return asyncio.create_task(node.handlers.snapshot(TakeSnapshot(record.sandbox_id, new_build_id(), "t", "n")))

    asked = [ask(slow) for _ in range(8)]
    await turns()
    async with asyncio.timeout(10):
        assert await ask(quick)
    assert not any(one.done() for one in asked)
    go_on.set()
    await asyncio.gather(*asked)


async def test_api_process_cannot_have_the_resolver_twice(node: Node) -> None:
    """The sockets are made once, however often they are asked for at the same moment; each answer has copies of the same two."""
    asked = await asyncio.gather(*(node.handlers.dns_sockets() for _ in range(10)))
    assert node.steps.counts["sockets"] == 1
    inodes = set()
    for sockets in asked:
        for sock in (sockets.udp, sockets.tcp):
            inodes.add(os.fstat(sock.fileno()).st_ino)
            sock.close()
    assert len(inodes) == 2


def test_api_process_cannot_have_more_builds_than_a_team_may(tmp_path: Path) -> None:
    """A team has its bound, below that of all; what is refused leaves nothing, and an end makes room."""
    builds = BuildQueue(BuildRecords(tmp_path), cast("Any", None), QueueLimits(waiting=8, of_team=3))

    def ask(team_id: str) -> str:
        build_id = new_build_id()
        builds.enqueue(BuildRequest(build_id=build_id, template_id="t", team_id=team_id, name="n", parent="base"))
        return build_id

    ids = [ask("one") for _ in range(3)]
    with pytest.raises(QuotaExceededError):
        ask("one")
    for number in range(5):
        ask(f"made up {number}")
    with pytest.raises(NoCapacityError):
        ask("another")
    assert len(list(tmp_path.iterdir())) == 8
    assert builds.cancel(ids[0])
    ask("one")
