"""The supervisor's side of the node protocol: a unix socket, its peers, and the dispatch of requests.

Owns the listening socket and the connections. Decides nothing about sandboxes: every method goes to a :class:`NodeService`.
Invariant: only root and the uids that the caller allows are listened to (``SO_PEERCRED``); what such a peer sends is checked
for shape before it reaches the service, because the API process is not trusted with more than this protocol gives it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from cloister.errors import CloisterError, InternalError, InvalidRequestError
from cloister.model.build import BuildReport, BuildRequest, EndedBuild
from cloister.model.node import EndedSandbox, NodeInfo, SandboxMetrics, SandboxNote, SandboxStats
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxRequest
from cloister.model.template import Template
from cloister.node.requests import (
    MAX_REPORT_ENTRIES,
    build_id_of,
    count_of,
    label_of,
    parse_build,
    parse_request,
    sandbox_id_of,
    template_id_of,
    typed,
)
from cloister.protocol.node import ChannelClosedError, Message, NodeChannel, ProtocolError

__all__ = ["BuildService", "DnsSockets", "NodeServer", "NodeService"]

_log = structlog.get_logger("cloister.node.server")
_MAX_IN_FLIGHT = 1024
_MAX_UNTOLD = 1000
"""Notes kept while nobody is connected."""
_MAX_OFFSET = 1 << 40
_METRICS_PARAMS = ("start", "end", "newest")


@dataclass(frozen=True)
class DnsSockets:
    """The sandboxes' resolver address as two bound sockets, and where to ask on. The supervisor keeps owning the sockets."""

    udp: socket.socket
    tcp: socket.socket
    upstreams: tuple[str, ...]


class NodeService(Protocol):
    """What a supervisor does on request. Every method raises :class:`CloisterError`, with the code that the client shall see."""

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """Create a sandbox and answer when its agent serves. The id is the caller's; one that lives is AlreadyExistsError."""

    async def reserve(self, template: str) -> str:
        """An id for the next creation of ``template``: that of a sandbox made ahead, kept for the caller a while, or a fresh one."""

    async def kill(self, sandbox_id: str, reason: EndReason) -> bool:
        """End a sandbox and release what it holds; False if there is none. Idempotent."""

    async def set_deadline(self, sandbox_id: str, end_at: float) -> None:
        """Replace the time (epoch seconds) at which the sandbox is killed. SandboxNotFoundError if there is none."""

    async def list(self) -> Sequence[SandboxRecord]:
        """All live sandboxes."""

    async def get(self, sandbox_id: str) -> SandboxRecord:
        """One live sandbox, or SandboxNotFoundError."""

    async def stats(self, sandbox_id: str) -> SandboxStats:
        """What the sandbox uses now."""

    async def metrics(self, sandbox_id: str, start: float | None, end: float | None, newest: int | None) -> SandboxMetrics:
        """What the sandbox used from ``start`` to ``end`` (epoch seconds, both included), or the newest so many samples of that."""

    async def dial(self, sandbox_id: str) -> socket.socket:
        """A fresh, unconnected TCP socket inside the sandbox's network; the server closes it once it is sent."""

    async def templates(self) -> Sequence[Template]:
        """The templates that this node can run."""

    async def dns_sockets(self) -> DnsSockets:
        """The resolver's sockets; they stay the service's."""

    async def ping(self) -> NodeInfo:
        """Who this is."""

    async def snapshot(self, sandbox_id: str, build_id: str, template_id: str, name: str) -> Template:
        """What a live sandbox's disk holds now, as the template ``build_id``; one that is there already is given back."""


class BuildService(Protocol):
    """What a node does about builds on request; raises as :class:`NodeService` does."""

    async def start_build(self, request: BuildRequest) -> None:
        """Queue a build; a build id that is known already changes nothing. NoCapacityError when the queue is full."""

    async def report_build(self, build_id: str, offset: int, limit: int) -> BuildReport:
        """A build's state and at most ``limit`` entries of its log from ``offset`` on. NotFoundError if there is none."""

    async def cancel_build(self, build_id: str) -> bool:
        """End a build that has not ended, with status ``error``; False if there is none. Idempotent."""

    async def drop_build(self, build_id: str) -> None:
        """Forget a build and what it made; live sandboxes of it live on. Idempotent."""


_Answer = tuple[Any, Sequence[int], Callable[[], None] | None]


class NodeServer:
    """Serves one :class:`NodeService` and its :class:`BuildService` on one unix socket.

    Start with :meth:`start`, end with :meth:`close`; ``broadcast_ended`` tells every peer that a sandbox ended.
    """

    def __init__(
        self, service: NodeService, builds: BuildService, path: Path, *, allowed_uids: Collection[int], socket_gid: int | None = None
    ) -> None:
        self._service = service
        self._builds = builds
        self._path = path
        self._allowed = frozenset(allowed_uids) | {0}
        self._gid = socket_gid
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._peers: dict[NodeChannel, asyncio.Task[None]] = {}
        self._requests: set[asyncio.Task[None]] = set()
        self._untold: deque[SandboxNote] = deque(maxlen=_MAX_UNTOLD)
        self._methods: dict[str, Callable[[dict[str, Any]], Awaitable[_Answer]]] = {
            "reserve": self._reserve,
            "create": self._create,
            "kill": self._kill,
            "set_deadline": self._set_deadline,
            "list": self._list,
            "get": self._get,
            "stats": self._stats,
            "metrics": self._metrics,
            "dial": self._dial,
            "templates": self._templates,
            "dns_sockets": self._dns_sockets,
            "ping": self._ping,
            "start_build": self._start_build,
            "report_build": self._report_build,
            "cancel_build": self._cancel_build,
            "drop_build": self._drop_build,
            "snapshot": self._snapshot,
        }

    async def start(self) -> None:
        """Bind the socket (replacing a dead server's) and begin to accept.

        The socket is mode 0666 in a directory that decides who can reach it; the peer's uid is what counts.
        """
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        listener.bind(os.fspath(self._path))
        self._path.chmod(0o666)
        if self._gid is not None:
            os.chown(self._path, -1, self._gid)
        listener.listen(64)
        self._listener = listener
        self._accepting = asyncio.create_task(self._accept(listener))

    async def close(self) -> None:
        """Stop accepting, close the peers, and cancel what runs for them."""
        tasks = [self._accepting, *self._peers.values(), *self._requests]
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for channel in tuple(self._peers):
            channel.close()
        if self._listener is not None:
            self._listener.close()
            self._path.unlink(missing_ok=True)

    async def broadcast_ended(self, ended: EndedSandbox) -> None:
        """Send ``sandbox.ended`` to every peer; one that has gone is passed over."""
        await self._broadcast({"event": "sandbox.ended", "data": ended.to_json()})

    async def broadcast_build_ended(self, ended: EndedBuild) -> None:
        """Send ``build.ended`` to every peer. With none there it is not told later: whoever connects asks for reports."""
        await self._broadcast({"event": "build.ended", "data": ended.to_json()})

    async def broadcast_note(self, note: SandboxNote) -> None:
        """Send ``sandbox.noted`` to every peer; with none there, the next to come is told, unless there are too many notes by then."""
        if self._peers:
            await self._broadcast({"event": "sandbox.noted", "data": note.to_json()})
        else:
            self._untold.append(note)

    async def _broadcast(self, body: dict[str, Any]) -> None:
        for channel in tuple(self._peers):
            try:
                await channel.send(body)
            except ConnectionError:
                channel.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            channel = NodeChannel(connection)
            uid = channel.peer_uid()
            if uid not in self._allowed:
                _log.warning("peer.refused", uid=uid)
                channel.close()
                continue
            self._peers[channel] = asyncio.create_task(self._serve(channel))

    async def _serve(self, channel: NodeChannel) -> None:
        room = asyncio.Semaphore(_MAX_IN_FLIGHT)
        try:
            while self._untold:
                await channel.send({"event": "sandbox.noted", "data": self._untold.popleft().to_json()})
            while True:
                message = await channel.receive()
                message.close_fds()
                await room.acquire()
                task = asyncio.create_task(self._answer(channel, message))
                self._requests.add(task)
                task.add_done_callback(self._requests.discard)
                task.add_done_callback(lambda _: room.release())
        except ChannelClosedError:
            pass
        except ProtocolError as error:
            _log.warning("peer.protocol_broken", error=str(error))
        finally:
            channel.close()
            self._peers.pop(channel, None)

    async def _answer(self, channel: NodeChannel, message: Message) -> None:
        request_id = message.body.get("id")
        fds: Sequence[int] = ()
        done: Callable[[], None] | None = None
        body: dict[str, Any]
        try:
            result, fds, done = await self._dispatch(message.body)
            body = {"id": request_id, "result": result}
        except CloisterError as error:
            body = {"id": request_id, "error": {"code": error.code, "message": error.message, "hint": error.hint}}
        except Exception as error:  # noqa: BLE001 - process border: a fault of the service must reach the log and the client
            _log.exception("request.failed", method=message.body.get("method"))
            body = {"id": request_id, "error": {"code": InternalError.code, "message": f"{type(error).__name__}: {error}", "hint": None}}
        try:
            await channel.send(body, fds)
        except ChannelClosedError:
            _log.info("answer.undelivered", method=message.body.get("method"))
        finally:
            if done is not None:
                done()

    async def _dispatch(self, body: dict[str, Any]) -> _Answer:
        name, params = body.get("method"), body.get("params", {})
        method = self._methods.get(name) if isinstance(name, str) else None
        if method is None or not isinstance(params, dict):
            raise InvalidRequestError(f"no such method: {name!r}")
        return await method(params)

    async def _reserve(self, params: dict[str, Any]) -> _Answer:
        return {"sandbox_id": await self._service.reserve(typed(params, "template", str))}, (), None

    async def _create(self, params: dict[str, Any]) -> _Answer:
        record = await self._service.create(parse_request(params))
        return record.to_json(), (), None

    async def _kill(self, params: dict[str, Any]) -> _Answer:
        try:
            reason = EndReason(params.get("reason", EndReason.KILLED))
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error
        return {"killed": await self._service.kill(sandbox_id_of(params), reason)}, (), None

    async def _set_deadline(self, params: dict[str, Any]) -> _Answer:
        await self._service.set_deadline(sandbox_id_of(params), typed(params, "end_at", (int, float)))
        return {}, (), None

    async def _list(self, _params: dict[str, Any]) -> _Answer:
        return {"sandboxes": [record.to_json() for record in await self._service.list()]}, (), None

    async def _get(self, params: dict[str, Any]) -> _Answer:
        return (await self._service.get(sandbox_id_of(params))).to_json(), (), None

    async def _stats(self, params: dict[str, Any]) -> _Answer:
        return (await self._service.stats(sandbox_id_of(params))).to_json(), (), None

    async def _metrics(self, params: dict[str, Any]) -> _Answer:
        start, end, newest = (None if params.get(name) is None else typed(params, name, (int, float)) for name in _METRICS_PARAMS)
        if newest is not None and not (isinstance(newest, int) and newest > 0):
            raise InvalidRequestError("newest is not a positive whole number")
        return (await self._service.metrics(sandbox_id_of(params), start, end, newest)).to_json(), (), None

    async def _dial(self, params: dict[str, Any]) -> _Answer:
        sock = await self._service.dial(sandbox_id_of(params))
        return {}, (sock.fileno(),), sock.close

    async def _templates(self, _params: dict[str, Any]) -> _Answer:
        return {"templates": [template.to_json() for template in await self._service.templates()]}, (), None

    async def _dns_sockets(self, _params: dict[str, Any]) -> _Answer:
        sockets = await self._service.dns_sockets()
        return {"upstreams": list(sockets.upstreams)}, (sockets.udp.fileno(), sockets.tcp.fileno()), None

    async def _ping(self, _params: dict[str, Any]) -> _Answer:
        return (await self._service.ping()).to_json(), (), None

    async def _start_build(self, params: dict[str, Any]) -> _Answer:
        await self._builds.start_build(parse_build(params))
        return {}, (), None

    async def _report_build(self, params: dict[str, Any]) -> _Answer:
        offset, limit = count_of(params, "offset", 0, _MAX_OFFSET), count_of(params, "limit", 0, MAX_REPORT_ENTRIES)
        return (await self._builds.report_build(build_id_of(params), offset, limit)).to_json(), (), None

    async def _cancel_build(self, params: dict[str, Any]) -> _Answer:
        return {"cancelled": await self._builds.cancel_build(build_id_of(params))}, (), None

    async def _drop_build(self, params: dict[str, Any]) -> _Answer:
        await self._builds.drop_build(build_id_of(params))
        return {}, (), None

    async def _snapshot(self, params: dict[str, Any]) -> _Answer:
        names = build_id_of(params), template_id_of(params), label_of(params, "name")
        return (await self._service.snapshot(sandbox_id_of(params), *names)).to_json(), (), None
