"""The node protocol between its two real sides: framing, descriptors, refusals, reconnection."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloister.cluster.base import NodeClient, NodeListener
from cloister.cluster.local import LocalNodeClient
from cloister.errors import InvalidRequestError, NoCapacityError, NodeUnreachableError, SandboxNotFoundError
from cloister.ids import new_sandbox_id
from cloister.model.build import BuildFiles, BuildLogEntry, BuildReport, BuildRequest, BuildStatus, BuildStep, EndedBuild, ImageSource
from cloister.model.node import EndedSandbox, NodeInfo, Sample, SandboxMetrics, SandboxNote, SandboxStats
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxRequest, SandboxState
from cloister.model.template import Template
from cloister.node.requests import parse_request
from cloister.node.server import DnsSockets, NodeServer
from cloister.protocol.node import MAX_PIECE_BYTES, ChannelClosedError, NodeChannel, ProtocolError

ID = "a" * 20
BUILD_ID = "5b1fe2a4-4f51-4b6f-8a4e-27ab02a05c1e"
BUILD = BuildRequest(
    build_id=BUILD_ID,
    template_id="t1",
    team_id="team-1",
    name="A name",
    image=ImageSource(reference="docker.io/library/python:3.12-slim", username="u", password="p"),
    steps=(
        BuildStep(kind="COPY", args=("a", "/b", "", ""), files=BuildFiles(path="team-1/0123", digest="0" * 64)),
        BuildStep(kind="RUN", args=("echo 'ü'\n", "root"), force=True),
    ),
    start_cmd="sleep inf",
    ready_cmd="true",
    cpu_count=0.5,
    mem_mib=512,
    disk_mib=1024,
    force=True,
)
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

    async def reserve(self, _template: str) -> str:
        """A fresh id."""
        return new_sandbox_id()

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """See NodeService."""
        self.asked.append(request)
        if request.template == "full":
            raise NoCapacityError("full", hint="wait")
        if request.template == "broken":
            raise KeyError("oops")
        return record(request.sandbox_id, attributes=request.attributes)

    async def kill(self, sandbox_id: str, reason: EndReason) -> bool:
        """See NodeService."""
        self.asked.append((sandbox_id, reason))
        return True

    async def set_deadline(self, sandbox_id: str, end_at: float) -> None:
        """See NodeService."""
        self.asked.append((sandbox_id, end_at))

    async def list(self) -> list[SandboxRecord]:
        """See NodeService."""
        return [record(attributes={"big": "x" * 1000}) for _ in range(1000)]

    async def get(self, sandbox_id: str) -> SandboxRecord:
        """See NodeService."""
        raise SandboxNotFoundError(sandbox_id)

    async def stats(self, _sandbox_id: str) -> SandboxStats:
        """See NodeService."""
        return SandboxStats(cpu_used_s=1, mem_used_bytes=2, mem_limit_bytes=3, oom_kills=4, pids=5, disk_used_bytes=6, disk_total_bytes=7)

    async def metrics(self, sandbox_id: str, start: float | None, end: float | None, newest: int | None) -> SandboxMetrics:
        """See NodeService."""
        self.asked.append((sandbox_id, start, end, newest))
        return SandboxMetrics(mem_limit_bytes=1, disk_total_bytes=2, samples=(SAMPLE,) * 2)

    async def dial(self, _sandbox_id: str) -> socket.socket:
        """See NodeService."""
        return socket.socket()

    async def templates(self) -> tuple[Template, ...]:
        """See NodeService."""
        return (Template(template_id="t", name="base", build_id="b", layers=("l",)),)

    async def dns_sockets(self) -> DnsSockets:
        """See NodeService."""
        raise InvalidRequestError("no resolver")

    async def ping(self) -> NodeInfo:
        """See NodeService."""
        await asyncio.sleep(0)
        return NodeInfo(version="1", instance=3)

    async def start_build(self, request: BuildRequest) -> None:
        """See NodeService."""
        self.asked.append(request)

    async def report_build(self, build_id: str, offset: int, limit: int) -> BuildReport:
        """See NodeService."""
        entries = tuple(BuildLogEntry(at=number, level="info", message=str(number), step="1") for number in range(offset, offset + limit))
        return BuildReport(build_id=build_id, status=BuildStatus.BUILDING, total=9, entries=entries, message="m", step="2")

    async def cancel_build(self, build_id: str) -> bool:
        """See NodeService."""
        self.asked.append(build_id)
        return True

    async def drop_build(self, build_id: str) -> None:
        """See NodeService."""
        self.asked.append(build_id)

    async def snapshot(self, sandbox_id: str, build_id: str, template_id: str, name: str) -> Template:
        """See NodeService."""
        self.asked.append(sandbox_id)
        return Template(template_id=template_id, name=name, build_id=build_id, layers=("l",))


class Harness:
    """A server that can be stopped and started, and a client of it."""

    def __init__(self, path: Path) -> None:
        self.service = Service()
        self.path = path
        self.ended: list[EndedSandbox] = []
        self.builds_ended: list[EndedBuild] = []
        self.greeted = 0
        self.client = LocalNodeClient(path, wait_s=1.0)
        self.server: NodeServer | None = None

    async def start(self) -> None:
        """Start a server."""
        self.server = NodeServer(self.service, self.service, self.path, allowed_uids={os.getuid()})
        await self.server.start()

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
    harness.client.start(NodeListener(harness.greet, harness.ended.append, build_ended=harness.builds_ended.append))
    yield harness
    await harness.client.close()
    await harness.stop()


async def test_calls(harness: Harness) -> None:
    """Requests and answers keep their fields, large ones included; errors keep code, message and hint."""
    request = SandboxRequest(
        sandbox_id=ID, template="base", end_at=5.5, envs={"A": "ü\n'"}, attributes={"n": [1, {"m": None}], "big": "x" * 500_000}
    )
    assert (await harness.client.create(request)).attributes == request.attributes
    assert harness.service.asked == [request]
    assert len(await harness.client.list()) == 1000
    assert await harness.client.kill(ID, EndReason.EXPIRED)
    assert harness.service.asked[-1] == (ID, EndReason.EXPIRED)
    assert (await harness.client.stats(ID)).oom_kills == 4
    found = await harness.client.metrics(ID, start=1.5, newest=2)
    assert (found.mem_limit_bytes, found.disk_total_bytes, found.samples) == (1, 2, (SAMPLE, SAMPLE))
    assert harness.service.asked[-1] == (ID, 1.5, None, 2)
    with pytest.raises(InvalidRequestError, match="newest"):
        await harness.client.metrics(ID, newest=0)
    assert [template.layers for template in await harness.client.templates()] == [("l",)]
    with pytest.raises(SandboxNotFoundError):
        await harness.client.get(ID)
    with pytest.raises(NoCapacityError) as caught:
        await harness.client.create(SandboxRequest(sandbox_id=ID, template="full", end_at=1))
    assert caught.value.hint == "wait"
    with pytest.raises(Exception, match="oops"):
        await harness.client.create(SandboxRequest(sandbox_id=ID, template="broken", end_at=1))


async def test_notes_reach_the_peer_that_comes_later(harness: Harness) -> None:
    """What the node saw while nobody was connected is told to the next peer, in order, and what it sees then at once."""
    told: asyncio.Queue[SandboxNote] = asyncio.Queue()
    notes = [SandboxNote(sandbox_id=ID, at=number, level="warn", event="disk.exhausted", fields={"n": number}) for number in range(4)]
    await harness.client.close()
    assert harness.server is not None
    await asyncio.sleep(0.1)  # the server sees that its peer has gone
    for note in notes[:3]:
        await harness.server.broadcast_note(note)
    harness.client = LocalNodeClient(harness.path, wait_s=1.0)
    harness.client.start(NodeListener(harness.greet, harness.ended.append, told.put_nowait))
    await harness.client.wait_connected()
    await harness.server.broadcast_note(notes[3])
    async with asyncio.timeout(5):
        assert [await told.get() for _ in notes] == notes


async def test_descriptors(harness: Harness) -> None:
    """Dialled sockets arrive as sockets, and neither side keeps another copy."""
    (await harness.client.dial(ID)).close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    sockets = await asyncio.gather(*(harness.client.dial(ID) for _ in range(50)))
    assert all(sock.type is socket.SOCK_STREAM and not sock.getblocking() for sock in sockets)
    for sock in sockets:
        sock.close()
    await asyncio.sleep(0.05)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


async def test_events(harness: Harness) -> None:
    """Every client is told of an ended sandbox."""
    await harness.client.ping()
    assert harness.server is not None
    await harness.server.broadcast_ended(EndedSandbox(sandbox_id=ID, reason=EndReason.CRASHED, message="why"))
    await harness.client.ping()
    assert harness.ended == [EndedSandbox(sandbox_id=ID, reason=EndReason.CRASHED, message="why")]


async def test_builds(harness: Harness) -> None:
    """A build's request, report and end cross the socket with all their fields."""
    await harness.client.start_build(BUILD)
    assert harness.service.asked == [BUILD]
    report = await harness.client.report_build(BUILD_ID, offset=3, limit=2)
    assert (report.status, report.total, report.message, report.step) == (BuildStatus.BUILDING, 9, "m", "2")
    assert [entry.message for entry in report.entries] == ["3", "4"]
    assert await harness.client.cancel_build(BUILD_ID)
    await harness.client.drop_build(BUILD_ID)
    made = await harness.client.snapshot(ID, BUILD_ID, "t1", "A name")
    assert (made.build_id, made.template_id, made.name) == (BUILD_ID, "t1", "A name")
    assert harness.server is not None
    ended = EndedBuild(build_id=BUILD_ID, status=BuildStatus.ERROR, message="why", step="base")
    await harness.server.broadcast_build_ended(ended)
    await harness.client.ping()
    assert harness.builds_ended == [ended]


@pytest.mark.parametrize(("offset", "limit"), [(-1, 1), (0, -1), (0, 1001), (1 << 60, 1), (True, 1), (0, 1.5)])
async def test_windows_of_a_log_are_bounded(harness: Harness, offset: Any, limit: Any) -> None:
    """No peer gets a whole log at once, or an index that is none."""
    with pytest.raises(InvalidRequestError):
        await harness.client.report_build(BUILD_ID, offset, limit)


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
        {"sandbox_id": ID, "template": "base", "end_at": 1, "allow_internet": "no"},
        {"sandbox_id": ID, "template": "base", "end_at": 1, "limits": {"pids": -1}},
        {"sandbox_id": ID, "template": "base", "end_at": 1, "limits": {"pids": "9"}},
        {"sandbox_id": ID, "template": "base", "end_at": 1, "attributes": 1},
    ],
)
def test_creations_of_the_wrong_shape(params: dict[str, Any]) -> None:
    """What a peer sends is checked for shape before the service sees it."""
    with pytest.raises(InvalidRequestError):
        parse_request(params)


async def test_channel_bounds_messages_and_ends() -> None:
    """A message is cut into packets that fit and put together again; the end of the peer is told."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one, two = NodeChannel(left), NodeChannel(right)
    body = {"x": "y" * (3 * MAX_PIECE_BYTES)}
    sending = asyncio.create_task(one.send(body))
    assert (await two.receive()).body == body
    await sending
    with pytest.raises(ProtocolError):
        await one.send({"x": "y" * (33 << 20)})
    one.close()
    with pytest.raises(ChannelClosedError):
        await two.receive()
    two.close()
