"""The supervisor's socket without a supervisor: a node server over a service that does nothing, and peers that speak bytes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from cloister.model.build import BuildReport, BuildStatus
from cloister.model.node import EndedSandbox, NodeInfo
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxRequest, SandboxState
from cloister.node.events import EventBroadcaster
from cloister.node.server import Implementations, NodeServer
from cloister.nodewire.framing import split_message
from cloister.nodewire.requests import (
    AskEnds,
    ListSandboxes,
    ReportBuild,
    Reserve,
    SandboxPage,
    SandboxRef,
    SetDeadline,
    SetNetwork,
    SetTeamTraffic,
)
from cloister.protocol.dialled import Dialled, on_loopback

__all__ = ["RawPeer", "StubService", "node_server", "stub_record"]


def stub_record(sandbox_id: str, **fields: Any) -> SandboxRecord:
    """Of a running sandbox."""
    return SandboxRecord(
        sandbox_id=sandbox_id, template="t", runtime="r", state=SandboxState.RUNNING, started_at=1, end_at=2, limits=Limits(), **fields
    )


class StubService:
    """Calls wait until ``gate`` is set, except pings; ``running`` and ``most`` count those that are under way, by method."""

    def __init__(self) -> None:
        self.records: list[SandboxRecord] = []
        self.gate = asyncio.Event()
        self.running, self.most = Counter[str](), Counter[str]()
        self.asked: list[Any] = []

    async def _wait(self, method: str) -> None:
        self.running[method] += 1
        self.most[method] = max(self.most[method], self.running[method])
        try:
            await self.gate.wait()
        finally:
            self.running[method] -= 1

    async def ping(self) -> NodeInfo:
        """See SandboxMethods."""
        return NodeInfo(node_id="node_0123456789abcdef", version="1", instance=0)

    async def list(self, request: ListSandboxes) -> SandboxPage:
        """See SandboxMethods."""
        return SandboxPage.of(self.records, request)

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """See SandboxMethods."""
        self.asked.append(request)
        await self._wait("create")
        return stub_record(request.sandbox_id)

    async def reserve(self, request: Reserve) -> str:
        """See SandboxMethods."""
        self.asked.append(request)
        return "r" * 20

    async def set_deadline(self, request: SetDeadline) -> None:
        """See SandboxMethods."""
        self.asked.append(request)

    async def set_network(self, request: SetNetwork) -> None:
        """See SandboxMethods."""
        self.asked.append(request)

    async def set_team_traffic(self, request: SetTeamTraffic) -> None:
        """See SandboxMethods."""
        self.asked.append(request)

    async def ended(self, request: AskEnds) -> Sequence[EndedSandbox]:
        """See SandboxMethods."""
        self.asked.append(request)
        return ()

    async def get(self, request: SandboxRef) -> SandboxRecord:
        """See SandboxMethods."""
        await self._wait("get")
        sandbox_id = request.sandbox_id
        return next((record for record in self.records if record.sandbox_id == sandbox_id), stub_record(sandbox_id))

    async def dial(self, _request: SandboxRef) -> Dialled:
        """See SandboxMethods."""
        await self._wait("dial")
        return on_loopback(socket.socket())

    async def report_build(self, request: ReportBuild) -> BuildReport:
        """See BuildMethods."""
        await self._wait("report_build")
        return BuildReport(build_id=request.build_id, status=BuildStatus.WAITING, total=0)


@asynccontextmanager
async def node_server(path: Path) -> AsyncIterator[tuple[NodeServer, StubService]]:
    """A server that listens to this user while the block lasts."""
    service = StubService()
    parts = Implementations(sandboxes=cast("Any", service), builds=cast("Any", service), volumes=cast("Any", service))
    server = NodeServer(parts, path, allowed_uids={os.getuid()}, events=EventBroadcaster())
    await server.start()
    try:
        yield server, service
    finally:
        service.gate.set()
        await server.close()


class RawPeer:
    """A connection on which anything can be said. To be closed."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        self.sock.connect(os.fspath(path))
        self._loop = asyncio.get_running_loop()

    async def send(self, packet: bytes) -> None:
        """One packet. Raises: OSError: the server has cut this off."""
        await asyncio.wait_for(self._loop.sock_sendall(self.sock, packet), 10)

    async def ask(self, method: object, params: object = None, request_id: object = 1) -> None:
        """A request; nothing is read. Raises: OSError: the server has cut this off."""
        for packet in split_message({"id": request_id, "method": method, "params": {} if params is None else params}):
            await self.send(packet)

    async def hear(self) -> dict[str, Any]:
        """The next message; empty: the server has cut this off."""
        gathered = b""
        while True:
            try:
                packet = await asyncio.wait_for(self._loop.sock_recv(self.sock, 1 << 20), 10)
            except ConnectionError:
                return {}
            if not packet:
                return {}
            gathered += packet[1:]
            if packet[:1] == b".":
                return dict(json.loads(gathered))

    async def is_served(self) -> bool:
        """Whether a ping is answered."""
        try:
            await self.ask("ping", request_id=77)
            while (heard := await self.hear()) and heard.get("id") != 77:
                pass
        except OSError:
            return False
        return bool(heard)

    def send_fds(self, packet: bytes, fds: Sequence[int]) -> None:
        """One packet with descriptors."""
        socket.send_fds(self.sock, [packet], list(fds))

    def close(self) -> None:
        """End it."""
        self.sock.close()
