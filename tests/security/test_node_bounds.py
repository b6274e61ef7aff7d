"""Bounds on requests of a compromised api process. Each is attacked alone, on the supervisor's side of the socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.cluster.base import NodeListener, live_sandboxes
from cloister.cluster.local import LocalNode
from cloister.ids import new_sandbox_id
from cloister.model.client_data import ClientData
from cloister.model.node import EndedSandbox
from cloister.model.sandbox import EndReason
from cloister.node import peers
from cloister.node.server import NodeServer
from framework.node_socket import RawPeer, StubService, node_server, stub_record
from framework.waiting import turns

ID = "a" * 20
BUILD_ID = "5b1fe2a4-4f51-4b6f-8a4e-27ab02a05c1e"
CREATE = {"sandbox_id": ID, "template": "base", "end_at": 100.0, "team_id": "team_1"}
CLIENT = {"template_id": "t", "template": "base"}


def client_data(text: str) -> ClientData:
    """Client data that contains this text."""
    return ClientData(template_id="t", template="base", metadata={"a": text})


class Lab:
    """A server, its service, and peers of it."""

    def __init__(self, server: NodeServer, service: StubService, path: Path) -> None:
        self.server, self.service, self.path = server, service, path
        self.peers: list[RawPeer] = []

    def peer(self) -> RawPeer:
        """One more connection."""
        self.peers.append(RawPeer(self.path))
        return self.peers[-1]

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for what comes by itself."""
        async with asyncio.timeout(20):
            while not is_so():
                await turns(1)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """One for each test, in a directory that every user can reach."""
    with tempfile.TemporaryDirectory(prefix="cloister-socket-") as directory:
        Path(directory).chmod(0o755)
        async with node_server(Path(directory) / "s") as (server, service):
            yield (lab := Lab(server, service, Path(directory) / "s"))
            for peer in lab.peers:
                peer.close()


# ---- connections and what is in flight ----


async def test_api_process_cannot_open_connections_without_bound(lab: Lab) -> None:
    """Those beyond the bound are closed; the others are served on, and one that ends makes room."""
    first = [lab.peer() for _ in range(peers.MAX_CONNECTIONS)]
    assert all([await peer.is_served() for peer in first])
    assert not any([await lab.peer().is_served() for _ in range(5)])
    assert all([await peer.is_served() for peer in first])
    first[0].close()
    await lab.until(lambda: len(lab.server._peers) < peers.MAX_CONNECTIONS)
    assert await lab.peer().is_served()


async def test_api_process_cannot_fill_the_supervisors_memory_by_half_a_message(lab: Lab) -> None:
    """A message that never ends is cut off at a size far below what memory holds; another peer is served meanwhile."""
    other, peer, sent = lab.peer(), lab.peer(), 0
    piece = b"+" + b"x" * 180_000
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while sent < 4 * peers.MAX_REQUEST_BYTES:
            await peer.send(piece)
            sent += len(piece)
            await turns(1)
    assert sent < 2 * peers.MAX_REQUEST_BYTES
    assert await other.is_served()


async def test_api_process_cannot_pass_descriptors_to_the_supervisor(lab: Lab) -> None:
    """A request with descriptors ends the connection, and they are closed."""
    other, peer = lab.peer(), lab.peer()
    assert await peer.is_served()
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader, writer = os.pipe()
    peer.send_fds(b'.{"id": 1, "method": "ping", "params": {}}', [reader] * 5)
    os.close(reader)
    assert await peer.hear() == {}
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)
    assert await other.is_served()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


async def test_api_process_cannot_hold_up_events_by_not_reading(lab: Lab) -> None:
    """Ends of sandboxes are told to others at once, and the peer that leaves too many unread is cut off."""
    deaf, other = lab.peer(), lab.peer()
    assert await deaf.is_served()
    assert await other.is_served()
    count = 2 * peers.MAX_EVENTS
    for number in range(count):
        ended = EndedSandbox(sandbox_id=ID, reason=EndReason.CRASHED, message=f"{number}" + "x" * 200, at=1.0)
        lab.server.events.sandbox_ended(ended)
        heard = await other.hear()
        assert heard["data"]["message"].startswith(f"{number}x")
    await lab.until(lambda: len(lab.server._peers) == 1)
    assert await other.is_served()


async def test_api_process_cannot_keep_answers_in_the_supervisor_by_not_reading(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that asks and does not read is cut off after a while, and nothing of its requests is left."""
    monkeypatch.setattr(peers, "_STALL_S", 0.2)
    deaf, other = lab.peer(), lab.peer()
    lab.service.gate.set()
    lab.service.records = [stub_record(ID, client=client_data("y" * 100_000))]
    with contextlib.suppress(OSError):
        for number in range(100):
            await deaf.ask("get", {"sandbox_id": ID}, number)
    await lab.until(lambda: len(lab.server._peers) == 1 and not lab.server._requests)
    assert await other.is_served()


@pytest.mark.parametrize(
    ("method", "params", "asked", "most"),
    [
        ("get", {"sandbox_id": ID}, 3000, 1024),
        ("dial", {"sandbox_id": ID}, 200, 64),
        ("report_build", {"build_id": BUILD_ID, "offset": 0, "limit": 1}, 20, 2),
    ],
)
async def test_api_process_cannot_have_too_much_in_flight(lab: Lab, method: str, params: dict[str, Any], asked: int, most: int) -> None:
    """Requests, sockets to be sent, and long answers: so many at a time, whatever was asked; another peer is served meanwhile."""
    peer, other = lab.peer(), lab.peer()

    async def flood() -> None:
        for number in range(asked):
            await peer.ask(method, params, number)

    flooding = asyncio.create_task(flood())
    await lab.until(lambda: lab.service.running[method] >= most)
    await turns(50)
    assert lab.service.most[method] == most
    assert await other.is_served()
    lab.service.gate.set()
    heard = [await peer.hear() for _ in range(asked)]
    await flooding
    assert sorted(answer["id"] for answer in heard) == list(range(asked))


async def test_client_cannot_hold_up_others_by_slow_creations_with_long_metadata(lab: Lab) -> None:
    """A creation takes as long as its template's start: many long ones under way keep no other request of the api process waiting."""
    peer = lab.peer()
    client = {**CLIENT, "metadata": {"a": "x" * 60_000}}
    for number in range(10):
        params = {**CREATE, "sandbox_id": new_sandbox_id(), "envs": {"A": "y" * 60_000}, "client": client}
        await peer.ask("create", params, number)
    assert await peer.is_served()
    assert lab.service.most["create"] == 10


async def test_api_process_cannot_make_its_sandboxes_unlistable(lab: Lab) -> None:
    """Records that are longer than a message together are listed in pages, so that an api process that starts always learns of all."""
    lab.service.records = [stub_record(new_sandbox_id(), client=client_data("y" * 1_000_000)) for _ in range(60)]
    node = LocalNode(lab.path, wait_s=10.0)

    async def greet(_node: object) -> None:
        pass

    node.start(NodeListener(greet, lambda _ended: None))
    try:
        listed = await live_sandboxes(node.calls)
    finally:
        await node.close()
    assert sorted(record.sandbox_id for record in listed) == sorted(record.sandbox_id for record in lab.service.records)


async def test_answer_that_is_too_long_is_told(lab: Lab) -> None:
    """It is an error of that request; the connection goes on."""
    lab.service.gate.set()
    lab.service.records = [stub_record(ID, client=client_data("y" * (33 << 20)))]
    peer = lab.peer()
    await peer.ask("get", {"sandbox_id": ID})
    assert (await peer.hear())["error"]["code"] == "internal"
    assert await peer.is_served()


# ---- who is heard ----

CONNECT = "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(5); s.connect(sys.argv[1])"
PING = CONNECT + """; s.send(b'.{"id": 1, "method": "ping", "params": {}}'); print(s.recv(999).decode())"""


async def _as_stranger(path: Path, code: str) -> str:
    command = ["/usr/bin/python3", "-I", "-c", code, str(path)]
    done = await asyncio.to_thread(
        subprocess.run, command, check=False, capture_output=True, text=True, user=1000, group=1000, extra_groups=[], cwd="/", timeout=30
    )
    return done.stdout + done.stderr


@pytest.mark.root
async def test_user_of_the_host_cannot_connect_to_the_supervisor(lab: Lab) -> None:
    """The socket is the api uid's own."""
    assert "PermissionError" in await _as_stranger(lab.path, CONNECT)


@pytest.mark.root
async def test_user_of_the_host_cannot_be_heard_on_an_open_socket(lab: Lab) -> None:
    """Nor is a stranger served who can connect all the same."""
    lab.path.chmod(0o666)
    assert "version" not in await _as_stranger(lab.path, PING)


DRAIN = CONNECT + """; s.send(b'.{"id": 1, "method": "change_drain", "params": {"is_on": true, "pause": true}}'); print(s.recv(999).decode())"""


@pytest.mark.root
async def test_api_process_cannot_drain_the_node(lab: Lab) -> None:
    """A drain pauses sandboxes beyond their quota, so only root may call it."""
    lab.path.chmod(0o666)
    lab.server._allowed = frozenset({0, 1000})
    assert "only root may call change_drain" in await _as_stranger(lab.path, DRAIN)
    assert not lab.service.asked


# ---- what a request may say ----

DEEP: Any = []
for _ in range(50):
    DEEP = [DEEP]
WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "deadline nan": ("set_deadline", {"sandbox_id": ID, "end_at": float("nan")}),
    "deadline infinite": ("set_deadline", {"sandbox_id": ID, "end_at": float("inf")}),
    "deadline negative infinite": ("create", {**CREATE, "end_at": float("-inf")}),
    "deadline 1e308": ("create", {**CREATE, "end_at": 1e308}),
    "deadline of many digits": ("create", {**CREATE, "end_at": 10**400}),
    "deadline a switch": ("create", {**CREATE, "end_at": True}),
    "template with a NUL": ("reserve", {"template": "ba\0se", "team_id": "t"}),
    "template too long": ("reserve", {"template": "b" * 5000, "team_id": "t"}),
    "template half a character": ("create", {**CREATE, "template": "\ud800"}),
    "token too long": ("create", {**CREATE, "access_token": "x" * 5000}),
    "token with a NUL": ("create", {**CREATE, "access_token": "x\0"}),
    "runtime too long": ("create", {**CREATE, "runtime": "x" * 5000}),
    "variables too many": ("create", {**CREATE, "envs": {f"N{number}": "" for number in range(1001)}}),
    "variables too long": ("create", {**CREATE, "envs": {f"N{number}": "x" * 50_000 for number in range(3)}}),
    "variable with a NUL": ("create", {**CREATE, "envs": {"A": "\0"}}),
    "variable with an equals sign": ("create", {**CREATE, "envs": {"A=B": "c"}}),
    "client too long": ("create", {**CREATE, "client": {**CLIENT, "metadata": {"a": "x" * 200_000}}}),
    "client too many": ("create", {**CREATE, "client": {**CLIENT, "metadata": {str(number): "" for number in range(10_000)}}}),
    "client too deep": ("create", {**CREATE, "client": {**CLIENT, "metadata": DEEP}}),
    "client with a NUL": ("create", {**CREATE, "client": {**CLIENT, "metadata": {"a": "\0"}}}),
    "client half a character": ("create", {**CREATE, "client": {**CLIENT, "metadata": {"\udfff": "1"}}}),
    "client with a number": ("create", {**CREATE, "client": {**CLIENT, "metadata": {"a": float("nan")}}}),
    "client of many digits": ("create", {**CREATE, "client": {**CLIENT, "metadata": {"a": 10**400}}}),
    "client of unknown terms": ("create", {**CREATE, "client": {**CLIENT, "other": 1}}),
    "client without a template": ("create", {**CREATE, "client": {}}),
    "limit of many digits": ("create", {**CREATE, "limits": {"mem_mib": 10**400}}),
    "limit not whole": ("create", {**CREATE, "limits": {"pids": 1.5}}),
    "limit of inodes that do not fit": ("create", {**CREATE, "limits": {"disk_mib": 64, "inodes": 1_000_000}}),
    "limit unknown": ("create", {**CREATE, "limits": {"x" * 100_000: 1}}),
    "field unknown": ("create", {**CREATE, "x" * 100_000: 1}),
    "field of another method": ("ping", {"sandbox_id": ID}),
    "metrics infinite": ("metrics", {"sandbox_id": ID, "start": float("inf")}),
    "ids too many": ("ended", {"sandbox_ids": [ID] * 1001}),
    "reason unknown": ("kill", {"sandbox_id": ID, "reason": "x" * 100_000}),
    "reason a list": ("kill", {"sandbox_id": ID, "reason": [[]]}),
    "method unknown": ("x" * 100_000, {}),
}


@pytest.mark.parametrize("name", WRONG)
async def test_api_process_cannot_ask_for_what_has_no_bound(lab: Lab, name: str) -> None:
    """It is an invalid request, told in a short answer; the service never sees it, and the connection goes on."""
    peer = lab.peer()
    method, params = WRONG[name]
    await peer.ask(method, params)
    answer = await peer.hear()
    assert answer.get("error", {}).get("code") == "invalid_request", answer
    assert len(str(answer)) < 10_000
    assert lab.service.asked == []
    assert await peer.is_served()


@pytest.mark.parametrize("request_id", [None, "x" * 100_000, DEEP, True, -1, 1.5, 1 << 60])
async def test_api_process_cannot_have_ids_repeated_that_are_none(lab: Lab, request_id: object) -> None:
    """An id is a small number; another one is not put into the answer."""
    peer = lab.peer()
    await peer.ask("ping", request_id=request_id)
    answer = await peer.hear()
    assert answer["error"]["code"] == "invalid_request"
    assert len(str(answer)) < 1000
    assert await peer.is_served()


async def test_what_the_api_process_does_ask_for_passes(lab: Lab) -> None:
    """The largest metadata and variables that the API takes are within the bounds."""
    lab.service.gate.set()
    peer = lab.peer()
    metadata = {f"{number:04}": "ü" * 30 for number in range(1000)}
    envs = {f"{number:04}": "x" * 120 for number in range(1000)}
    client = {**CLIENT, "metadata": metadata, "traffic_token": "x" * 43, "egress": None, "idempotency_key": None}
    await peer.ask("create", {**CREATE, "end_at": time.time() + 60, "envs": envs, "client": client, "limits": {"cpu_count": 0.5}})
    assert "result" in await peer.hear()
