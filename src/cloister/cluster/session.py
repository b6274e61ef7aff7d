"""The node protocol's calls, typed, and one connection that makes them.

:class:`NodeCalls` turns methods of :class:`~cloister.cluster.base.NodeClient` into exchanges; how one is made (on this connection, or on
whichever there is) is its subclass's. Invariant: no descriptor that arrives is left open without an owner.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cloister.cluster.base import NodeListener, ResolverSockets
from cloister.errors import InternalError, NodeUnreachableError, from_code
from cloister.model.build import BuildReport, BuildRequest, EndedBuild
from cloister.model.node import EndedSandbox, NodeInfo, SandboxMetrics, SandboxNote, SandboxStats
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxRequest
from cloister.model.template import Template
from cloister.protocol.node import Message, NodeChannel

__all__ = ["NodeCalls", "NodeSession"]

_SLOW_S = {"snapshot": 1800.0}
"""Methods whose answer may take longer than that of the others: they copy a disk."""


class NodeCalls(ABC):
    """The calls of a :class:`~cloister.cluster.base.NodeClient`; see there for what each does."""

    @abstractmethod
    async def _call(self, method: str, params: dict[str, Any]) -> Message:
        """One exchange; raises what the other side answered, or NodeUnreachableError."""

    async def reserve(self, template: str) -> str:
        """An id for the next creation."""
        return str((await self._call("reserve", {"template": template})).body["result"]["sandbox_id"])

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """Create a sandbox."""
        return SandboxRecord.from_json((await self._call("create", asdict(request))).body["result"])

    async def kill(self, sandbox_id: str, reason: EndReason) -> bool:
        """End a sandbox."""
        return bool((await self._call("kill", {"sandbox_id": sandbox_id, "reason": reason})).body["result"]["killed"])

    async def set_deadline(self, sandbox_id: str, end_at: float) -> None:
        """Replace the time at which the sandbox is killed."""
        await self._call("set_deadline", {"sandbox_id": sandbox_id, "end_at": end_at})

    async def list(self) -> Sequence[SandboxRecord]:
        """All live sandboxes."""
        message = await self._call("list", {})
        return [SandboxRecord.from_json(record) for record in message.body["result"]["sandboxes"]]

    async def get(self, sandbox_id: str) -> SandboxRecord:
        """One live sandbox."""
        return SandboxRecord.from_json((await self._call("get", {"sandbox_id": sandbox_id})).body["result"])

    async def stats(self, sandbox_id: str) -> SandboxStats:
        """What the sandbox uses now."""
        return SandboxStats.from_json((await self._call("stats", {"sandbox_id": sandbox_id})).body["result"])

    async def metrics(
        self, sandbox_id: str, start: float | None = None, end: float | None = None, newest: int | None = None
    ) -> SandboxMetrics:
        """What the sandbox used."""
        params = {"sandbox_id": sandbox_id, "start": start, "end": end, "newest": newest}
        return SandboxMetrics.from_json((await self._call("metrics", params)).body["result"])

    async def dial(self, sandbox_id: str) -> socket.socket:
        """A fresh, unconnected TCP socket inside the sandbox's network."""
        (sock,) = _sockets(await self._call("dial", {"sandbox_id": sandbox_id}), 1)
        return sock

    async def templates(self) -> Sequence[Template]:
        """The templates that the node can run."""
        message = await self._call("templates", {})
        return [Template.from_json(template) for template in message.body["result"]["templates"]]

    async def dns_sockets(self) -> ResolverSockets:
        """The resolver's sockets."""
        message = await self._call("dns_sockets", {})
        udp, tcp = _sockets(message, 2)
        return ResolverSockets(udp, tcp, tuple(message.body["result"]["upstreams"]))

    async def ping(self) -> NodeInfo:
        """Who the node is."""
        return NodeInfo.from_json((await self._call("ping", {})).body["result"])

    async def start_build(self, request: BuildRequest) -> None:
        """Queue a build."""
        await self._call("start_build", request.to_json())

    async def report_build(self, build_id: str, offset: int = 0, limit: int = 100) -> BuildReport:
        """A build's state and a window of its log."""
        message = await self._call("report_build", {"build_id": build_id, "offset": offset, "limit": limit})
        return BuildReport.from_json(message.body["result"])

    async def cancel_build(self, build_id: str) -> bool:
        """End a build."""
        return bool((await self._call("cancel_build", {"build_id": build_id})).body["result"]["cancelled"])

    async def drop_build(self, build_id: str) -> None:
        """Forget a build and what it made."""
        await self._call("drop_build", {"build_id": build_id})

    async def snapshot(self, sandbox_id: str, build_id: str, template_id: str, name: str) -> Template:
        """What a live sandbox's disk holds now, as a template."""
        params = {"sandbox_id": sandbox_id, "build_id": build_id, "template_id": template_id, "name": name}
        return Template.from_json((await self._call("snapshot", params)).body["result"])


class NodeSession(NodeCalls):
    """One connection to the supervisor. ``run`` reads it until it breaks; then every call in flight fails with ConnectionError."""

    def __init__(self, channel: NodeChannel, timeout_s: float) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Message]] = {}

    async def run(self, listener: NodeListener) -> None:
        """Hand out answers and events until the connection breaks, which is raised as ConnectionError."""
        try:
            while True:
                message = await self._channel.receive()
                event = message.body.get("event")
                if event is not None:
                    _tell(listener, event, message.body["data"])
                    continue
                future = self._waiting.pop(message.body.get("id", -1), None)
                if future is None or future.done():
                    message.close_fds()
                else:
                    future.set_result(message)
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection and fail what is in flight."""
        self._channel.close()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the node supervisor went away"))

    async def exchange(self, method: str, params: dict[str, Any]) -> Message:
        """One exchange.

        Raises:
            ConnectionError: the connection broke before the answer.
            NodeUnreachableError: no answer in time.
            CloisterError: what the supervisor answered.
        """
        request_id = next(self._ids)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        timeout_s = _SLOW_S.get(method, self._timeout_s)
        try:
            await self._channel.send({"id": request_id, "method": method, "params": params})
            async with asyncio.timeout(timeout_s):
                message = await future
        except TimeoutError as error:
            raise NodeUnreachableError(f"the node supervisor did not answer {method} within {timeout_s:g} s") from error
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().close_fds()
            raise
        finally:
            self._waiting.pop(request_id, None)
            if future.done() and not future.cancelled():
                future.exception()
        fault = message.body.get("error")
        if fault is not None:
            message.close_fds()
            raise from_code(fault["code"], fault["message"], fault.get("hint"))
        return message

    async def _call(self, method: str, params: dict[str, Any]) -> Message:
        try:
            return await self.exchange(method, params)
        except ConnectionError as error:
            raise NodeUnreachableError("the node supervisor went away", hint="it is restarting; try again") from error


def _tell(listener: NodeListener, event: str, data: dict[str, Any]) -> None:
    """Hand an event on; one of a kind that this version does not know is passed over."""
    match event:
        case "sandbox.ended":
            listener.ended(EndedSandbox.from_json(data))
        case "sandbox.noted":
            listener.noted(SandboxNote.from_json(data))
        case "build.ended":
            listener.build_ended(EndedBuild.from_json(data))


def _sockets(message: Message, count: int) -> list[socket.socket]:
    if len(message.fds) != count:
        message.close_fds()
        raise InternalError(f"the node supervisor sent {len(message.fds)} descriptors instead of {count}")
    sockets = [socket.socket(fileno=fd) for fd in message.fds]
    for sock in sockets:
        sock.setblocking(False)
    return sockets
