"""The node protocol between its two real sides: framing, descriptors, refusals, reconnection."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from cloister.cluster.base import NodeClient, NodeListener, ends_of, live_sandboxes
from cloister.cluster.local import LocalNode
from cloister.errors import InvalidRequestError, NoCapacityError, NodeUnreachableError, SandboxNotFoundError
from cloister.ids import new_sandbox_id
from cloister.model.build import BuildLogEntry, BuildReport, BuildRequest, BuildStatus, BuildStep, EndedBuild, ImageSource, UploadedArchive
from cloister.model.client_data import ClientData
from cloister.model.drain import Drained
from cloister.model.network import NO_EGRESS
from cloister.model.node import EndedSandbox, NodeInfo, Sample, SandboxMetrics, SandboxNote, TimedStep
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxRequest, SandboxState
from cloister.model.secret import Secret
from cloister.model.template import Template
from cloister.node.events import EventBroadcaster
from cloister.node.server import Implementations, NodeServer
from cloister.nodewire.methods import METHODS, NodeEvent
from cloister.nodewire.requests import (
    AskEnds,
    AskMetrics,
    BuildRef,
    ChangeDrain,
    DnsSockets,
    Kill,
    ListSandboxes,
    NoteLookUps,
    PauseSandbox,
    ReportBuild,
    Reserve,
    ResumeSandbox,
    SandboxPage,
    SandboxRef,
    SetDeadline,
    SetNetwork,
    SetTeamTraffic,
    TakeSnapshot,
)
from cloister.protocol.dialled import Dialled, on_loopback

ID = "a" * 20
BUILD_ID = "5b1fe2a4-4f51-4b6f-8a4e-27ab02a05c1e"
BUILD = BuildRequest(
    build_id=BUILD_ID,
    template_id="t1",
    team_id="team-1",
    name="A name",
    image=ImageSource(reference="docker.io/library/python:3.12-slim", username="u", password="p"),
    steps=(
        BuildStep(kind="COPY", args=("a", "/b", "", ""), files=UploadedArchive(path="team-1/0123", digest="0" * 64)),
        BuildStep(kind="RUN", args=("echo 'ü'\n", "root"), force=True),
    ),
    start_cmd="sleep inf",
    ready_cmd="true",
    cpu_count=0.5,
    mem_mib=512,
    disk_mib=1024,
    force=True,
)
ENDED = EndedSandbox(sandbox_id=ID, reason=EndReason.CRASHED, message="why", at=3.5)
SAMPLE = Sample(at=1.5, cpu_used_pct=2.5, mem_used_bytes=3, mem_cache_bytes=4, disk_used_bytes=5)


def record(sandbox_id: str = ID, **fields: Any) -> SandboxRecord:
    """A running sandbox's record."""
    return SandboxRecord(
        sandbox_id=sandbox_id, template="base", runtime="r", state=SandboxState.RUNNING, started_at=1, end_at=2, limits=Limits(), **fields
    )


class Service:
    """A node service that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def reserve(self, _request: Reserve) -> str:
        """A fresh id."""
        return new_sandbox_id()

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """See NodeMethods."""
        self.asked.append(request)
        if request.template == "full":
            raise NoCapacityError("full", hint="wait")
        if request.template == "broken":
            raise KeyError("oops")
        return record(request.sandbox_id, client=request.client)

    async def kill(self, request: Kill) -> bool:
        """See SandboxMethods."""
        self.asked.append(request)
        return True

    async def set_deadline(self, request: SetDeadline) -> None:
        """See SandboxMethods."""
        self.asked.append(request)

    async def change_drain(self, request: ChangeDrain) -> Drained:
        """See SandboxMethods."""
        self.asked.append(request)
        return Drained(state=None, running=0, paused={})

    async def set_network(self, request: SetNetwork) -> None:
        """See SandboxMethods."""
        self.asked.append(request)

    async def set_team_traffic(self, request: SetTeamTraffic) -> None:
        """See SandboxMethods."""
        self.asked.append(request)

    async def pause(self, request: PauseSandbox) -> SandboxRecord:
        """See SandboxMethods."""
        self.asked.append(request)
        return record()

    async def resume(self, request: ResumeSandbox) -> SandboxRecord:
        """See SandboxMethods."""
        self.asked.append(request)
        return record()

    async def list(self, request: ListSandboxes) -> SandboxPage:
        """See SandboxMethods."""
        return SandboxPage.of([record(f"{number:020}", build_id="x" * 1000) for number in range(1000)], request)

    async def ended(self, request: AskEnds) -> Sequence[EndedSandbox]:
        """See NodeMethods."""
        return [ENDED for one in request.sandbox_ids if one == ID]

    async def get(self, request: SandboxRef) -> SandboxRecord:
        """See NodeMethods."""
        raise SandboxNotFoundError(request.sandbox_id)

    async def creation_steps(self, request: SandboxRef) -> Sequence[TimedStep]:
        """See NodeMethods."""
        self.asked.append(request)
        return (TimedStep(name="one", began_at=1.5, seconds=0.25),)

    async def metrics(self, request: AskMetrics) -> SandboxMetrics:
        """See NodeMethods."""
        self.asked.append(request)
        return SandboxMetrics(mem_limit_bytes=1, disk_total_bytes=2, samples=(SAMPLE,) * 2)

    async def dial(self, _request: SandboxRef) -> Dialled:
        """See NodeMethods."""
        return on_loopback(socket.socket())

    async def templates(self) -> tuple[Template, ...]:
        """See NodeMethods."""
        return (Template(template_id="t", name="base", build_id="b", layers=("l",)),)

    async def note_look_ups(self, request: NoteLookUps) -> None:
        """See NodeMethods."""
        self.asked.append(request)

    async def dns_sockets(self) -> DnsSockets:
        """See NodeMethods."""
        raise InvalidRequestError("no resolver")

    async def ping(self) -> NodeInfo:
        """See NodeMethods."""
        await asyncio.sleep(0)
        return NodeInfo(node_id="node_0123456789abcdef", version="1", instance=3)

    async def start_build(self, request: BuildRequest) -> None:
        """See NodeMethods."""
        self.asked.append(request)

    async def report_build(self, request: ReportBuild) -> BuildReport:
        """See NodeMethods."""
        window = range(request.offset, request.offset + request.limit)
        entries = tuple(BuildLogEntry(at=number, level="info", message=str(number), step="1") for number in window)
        return BuildReport(build_id=request.build_id, status=BuildStatus.BUILDING, total=9, entries=entries, message="m", step="2")

    async def cancel_build(self, request: BuildRef) -> bool:
        """See NodeMethods."""
        self.asked.append(request)
        return True

    async def drop_build(self, request: BuildRef) -> None:
        """See NodeMethods."""
        self.asked.append(request)

    async def snapshot(self, request: TakeSnapshot) -> Template:
        """See SandboxMethods."""
        self.asked.append(request)
        return Template(template_id=request.template_id, name=request.name, build_id=request.build_id, layers=("l",))


def _all(service: Any) -> Implementations:
    return Implementations(sandboxes=service, builds=service, volumes=service)


class Harness:
    """A server that can be stopped and started, and a client of it."""

    def __init__(self, path: Path) -> None:
        self.service = Service()
        self.path = path
        self.heard: list[NodeEvent] = []
        self.greeted = 0
        self.node = LocalNode(path, wait_s=1.0)
        self.server: NodeServer | None = None

    async def start(self) -> None:
        """Start a server."""
        self.server = NodeServer(_all(self.service), self.path, allowed_uids={os.getuid()}, events=EventBroadcaster())
        await self.server.start()

    @property
    def client(self) -> NodeClient:
        """The calls."""
        return self.node.calls

    async def stop(self) -> None:
        """Stop the server."""
        if self.server is not None:
            await self.server.close()
            self.server = None

    async def greet(self, node: NodeClient) -> None:
        """What is done at each connection."""
        assert (await node.ping()).instance == 3
        self.greeted += 1


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """A connected pair."""
    harness = Harness(tmp_path / "s")
    await harness.start()
    harness.node.start(NodeListener(harness.greet, harness.heard.append))
    yield harness
    await harness.node.close()
    await harness.stop()


async def test_calls(harness: Harness) -> None:
    """Requests and answers keep their fields, large ones included; errors keep code, message and hint."""
    client = ClientData(
        template_id="t", template="base", metadata={"big": "x" * 100_000}, traffic_token=Secret("x"), egress=NO_EGRESS, idempotency_key="k"
    )
    request = SandboxRequest(
        sandbox_id=ID, template="base", end_at=5.5, envs={"A": "ü\n'"}, access_token=Secret("other"), egress=NO_EGRESS, client=client
    )
    assert (await harness.client.create(request)).client == client
    assert harness.service.asked == [request]
    assert len(await live_sandboxes(harness.client)) == 1000
    assert await harness.client.kill(Kill(ID, EndReason.EXPIRED))
    assert harness.service.asked[-1] == Kill(ID, EndReason.EXPIRED)
    found = await harness.client.metrics(AskMetrics(ID, start=1.5, newest=2))
    assert (found.mem_limit_bytes, found.disk_total_bytes, found.samples) == (1, 2, (SAMPLE, SAMPLE))
    assert harness.service.asked[-1] == AskMetrics(ID, 1.5, None, 2)
    with pytest.raises(InvalidRequestError, match="newest"):
        await harness.client.metrics(AskMetrics(ID, newest=0))
    assert [template.layers for template in await harness.client.templates()] == [("l",)]
    with pytest.raises(SandboxNotFoundError):
        await harness.client.get(SandboxRef(ID))
    with pytest.raises(NoCapacityError) as caught:
        await harness.client.create(SandboxRequest(sandbox_id=ID, template="full", end_at=1))
    assert caught.value.hint == "wait"
    with pytest.raises(Exception, match="oops"):
        await harness.client.create(SandboxRequest(sandbox_id=ID, template="broken", end_at=1))


@pytest.mark.skipif(os.getuid() != 0, reason="this machine's user is not root")
async def test_a_command_of_the_operator_takes_no_events(tmp_path: Path) -> None:
    """Root is answered where only another user is named, and what is kept for that user's process stays kept."""
    service, events, heard = Service(), EventBroadcaster(), list[NodeEvent]()
    server = NodeServer(_all(service), tmp_path / "s", allowed_uids={12_345}, events=events)
    await server.start()
    note = SandboxNote(sandbox_id=ID, at=1.0, level="warn", event="disk.exhausted")
    events.sandbox_noted(note)
    node = LocalNode(tmp_path / "s", wait_s=1.0)
    node.start(NodeListener(_greet_nothing, heard.append))
    assert (await node.calls.ping()).instance == 3
    events.sandbox_noted(note)
    assert (await node.calls.ping()).instance == 3
    await node.close()
    await server.close()
    assert heard == []
    told = Told()
    events.add(cast("Any", told))
    assert len(told.messages) == 2


class Told:
    """A peer."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def tell(self, message: dict[str, Any]) -> None:
        """It is kept."""
        self.messages.append(message)


async def _greet_nothing(_node: NodeClient) -> None:
    """Done at once."""


async def test_notes_reach_the_peer_that_comes_later(harness: Harness) -> None:
    """The next peer gets the notes from before its connection, in order, and later ones at once."""
    told: asyncio.Queue[NodeEvent] = asyncio.Queue()
    notes = [SandboxNote(sandbox_id=ID, at=number, level="warn", event="disk.exhausted", fields={"n": number}) for number in range(4)]
    await harness.node.close()
    assert harness.server is not None
    await asyncio.sleep(0.1)  # the server sees that its peer has gone
    for note in notes[:3]:
        harness.server.events.sandbox_noted(note)
    harness.node = LocalNode(harness.path, wait_s=1.0)
    harness.node.start(NodeListener(harness.greet, told.put_nowait))
    await harness.node.wait_connected()
    harness.server.events.sandbox_noted(notes[3])
    async with asyncio.timeout(5):
        assert [await told.get() for _ in notes] == notes


async def test_descriptors(harness: Harness) -> None:
    """Dialled sockets arrive as sockets, and neither side keeps another copy."""
    (await harness.client.dial(SandboxRef(ID))).socket.close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    dialled = await asyncio.gather(*(harness.client.dial(SandboxRef(ID)) for _ in range(50)))
    sockets = [one.socket for one in dialled]
    assert all(sock.type is socket.SOCK_STREAM and not sock.getblocking() for sock in sockets)
    for sock in sockets:
        sock.close()
    await asyncio.sleep(0.05)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


async def test_events(harness: Harness) -> None:
    """Every client is told of an ended sandbox."""
    await harness.client.ping()
    assert harness.server is not None
    harness.server.events.sandbox_ended(ENDED)
    await harness.client.ping()
    assert harness.heard == [ENDED]


async def test_ends_are_asked_for(harness: Harness) -> None:
    """The node tells what it knows of any number of sandboxes, in requests of a bounded size."""
    ids = [*(new_sandbox_id() for _ in range(2500)), ID]
    assert await ends_of(harness.client, ids) == [ENDED]


async def test_builds(harness: Harness) -> None:
    """A build's request, report and end cross the socket with all their fields."""
    await harness.client.start_build(BUILD)
    assert harness.service.asked == [BUILD]
    report = await harness.client.report_build(ReportBuild(BUILD_ID, offset=3, limit=2))
    assert (report.status, report.total, report.message, report.step) == (BuildStatus.BUILDING, 9, "m", "2")
    assert [entry.message for entry in report.entries] == ["3", "4"]
    assert await harness.client.cancel_build(BuildRef(BUILD_ID))
    await harness.client.drop_build(BuildRef(BUILD_ID))
    made = await harness.client.snapshot(TakeSnapshot(ID, BUILD_ID, "t1", "A name"))
    assert (made.build_id, made.template_id, made.name) == (BUILD_ID, "t1", "A name")
    assert harness.server is not None
    ended = EndedBuild(build_id=BUILD_ID, status=BuildStatus.ERROR, message="why", step="base")
    harness.server.events.build_ended(ended)
    await harness.client.ping()
    assert harness.heard == [ended]


@pytest.mark.parametrize(("offset", "limit"), [(-1, 1), (0, -1), (0, 1001), (1 << 60, 1), (True, 1), (0, 1.5)])
async def test_windows_of_a_log_are_bounded(harness: Harness, offset: Any, limit: Any) -> None:
    """No peer gets a whole log at once, or an index that is none."""
    with pytest.raises(InvalidRequestError):
        await harness.client.report_build(ReportBuild(BUILD_ID, offset, limit))


async def test_a_build_is_asked_for_again_after_a_restart(harness: Harness) -> None:
    """A build that is started while the supervisor restarts is started when it is back."""
    await harness.client.ping()
    await harness.stop()
    waiting = asyncio.create_task(harness.client.start_build(BUILD))
    await asyncio.sleep(0.1)
    await harness.start()
    await waiting
    assert harness.service.asked == [BUILD]


async def test_reconnection(harness: Harness) -> None:
    """Calls made while the server is away wait for its return, after which the client has greeted it anew."""
    await harness.client.ping()
    await harness.stop()
    waiting = asyncio.create_task(harness.client.ping())
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await harness.start()
    assert (await waiting).instance == 3
    assert harness.greeted == 2


async def test_a_server_that_stays_away(harness: Harness) -> None:
    """A call fails with NodeUnreachableError once it has waited its time."""
    await harness.client.ping()
    await harness.stop()
    with pytest.raises(NodeUnreachableError):
        await harness.client.ping()


@pytest.mark.parametrize("packet", [b"x{}", b".nope", b".[]", b".5", b"." + b"[" * 100_000])
async def test_broken_framing(harness: Harness, packet: bytes) -> None:
    """A peer that breaks the framing is cut off; the others are served on."""
    await harness.client.ping()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, str(harness.path))
        await asyncio.get_running_loop().sock_sendall(sock, packet)
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 100), 2) == b""
    await harness.client.ping()


async def test_descriptors_sent_to_the_server_are_closed(harness: Harness) -> None:
    """The server takes no descriptors from a peer."""
    await harness.client.ping()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(harness.path))
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(20):
            socket.send_fds(sock, [b'.{"id": 1, "method": "ping"}'], [0, 1, 2])
        await harness.client.ping()
        await asyncio.sleep(0.05)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"sandbox_id": "../x", "template": "base", "end_at": 1},
        {"sandbox_id": ID, "template": "base", "end_at": "1"},
        {"sandbox_id": ID, "template": "base", "end_at": 1, "more": 1},
        {"sandbox_id": ID, "template": 5, "end_at": 1},
        {"sandbox_id": ID, "template": "base", "end_at": 1, "envs": {"A": 1}},
        {"sandbox_id": ID, "template": "base", "end_at": 1, "egress": {"public": "no"}},
        {"sandbox_id": ID, "template": "base", "end_at": 1, "egress": {}},
        {"sandbox_id": ID, "template": "base", "end_at": 1, "egress": {"public": True, "deny": ["every"]}},
        {"sandbox_id": ID, "template": "base", "end_at": 1, "limits": {"pids": -1}},
        {"sandbox_id": ID, "template": "base", "end_at": 1, "limits": {"pids": "9"}},
        {"sandbox_id": ID, "template": "base", "end_at": 1, "client": 1},
    ],
)
def test_creations_of_the_wrong_shape(params: dict[str, Any]) -> None:
    """The server checks the shape of a request before a handler sees it."""
    with pytest.raises(InvalidRequestError):
        METHODS["create"].read_request(params)
