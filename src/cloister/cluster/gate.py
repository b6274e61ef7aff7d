"""The gate of a node: serves api processes of the cluster by TLS, and passes their requests on to the supervisor of this machine.

Owns the connections. Holds no state about sandboxes, and decides nothing: the supervisor checks each request. Invariants: only a
certificate of the cluster's authority that may call gets an answer; no descriptor and no method of an operator is reachable from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from cloister.cluster.wire import BEAT_S, PROTOCOL, FarChannel, error_of, packed
from cloister.errors import CloisterError, InvalidRequestError, PermissionDeniedError, UnavailableError
from cloister.nodewire.framing import Message, NodeChannel
from cloister.nodewire.methods import find_method

__all__ = ["Gate", "GateWays"]

_log = structlog.get_logger("cloister.cluster")
_FIRST_S = 10.0
"""For a handshake."""
_IDLE_S = 60.0
"""For the first message: api processes connect ahead of streams."""
_FIRST_BYTES = 64 << 10
_REQUEST_BYTES = 8 << 20
"""As for the supervisor."""
_BUFFER_BYTES = 256 << 10
_LOOK_S = 0.1
_MOST_CONNECTIONS = 8192


@dataclass(frozen=True)
class GateWays:
    """Functions that reach into the machine for the gate."""

    supervisor: Callable[[], Awaitable[NodeChannel]]
    """A new connection to the supervisor. Raises: OSError: it is away."""
    port: Callable[[str, int], Awaitable[socket.socket]]
    """A connected socket to a port of a sandbox. Raises: CloisterError; OSError: no program listens there."""
    volume: Callable[[Any], Awaitable[socket.socket]]
    """A connection that serves the content of a volume, by the parameters of ``dial_volume``. Raises: CloisterError."""


class Gate:
    """Serves on a listening socket, which stays the caller's."""

    def __init__(self, listener: socket.socket, context: ssl.SSLContext, caller: Callable[[ssl.SSLObject], bool], ways: GateWays) -> None:
        """``caller`` says whether the other side of a connection, whose certificate was verified, may call."""
        self._listener = listener
        self._context = context
        self._may_call = caller
        self._ways = ways
        self._hello: dict[str, Any] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._callers: set[FarChannel] = set()
        self._ready: set[FarChannel] = set()
        """Callers that were told that the supervisor is reached."""
        self._questions: dict[int, asyncio.Future[str]] = {}
        self._numbers = itertools.count(1)

    async def start(self, hello: dict[str, Any]) -> None:
        """Accept connections; ``hello`` describes this node to them."""
        self._hello = {**hello, "protocol": PROTOCOL}
        self._server = await asyncio.start_server(
            self._accept, sock=self._listener.dup(), ssl=self._context, ssl_handshake_timeout=_FIRST_S, limit=_BUFFER_BYTES
        )

    async def leave(self) -> None:
        """Tell the callers that this node stops on purpose, and may come back."""
        for channel in tuple(self._callers):
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(1):
                    await channel.send({"leaving": True})

    async def ask(self, line: str, timeout_s: float) -> str:
        """The answer of an api process to a question of the egress process, one line each. Raises: UnavailableError."""
        channel = next(iter(self._ready), None)
        if channel is None:
            raise UnavailableError("no api process is connected to this node")
        number = next(self._numbers)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._questions[number] = answer
        try:
            async with asyncio.timeout(timeout_s):
                await channel.send({"ask": number, "line": line})
                return await answer
        except (ConnectionError, TimeoutError) as error:
            raise UnavailableError("the api process does not answer") from error
        finally:
            del self._questions[number]

    def _answered(self, body: dict[str, Any]) -> None:
        number = body["answered"]
        question = self._questions.get(number) if isinstance(number, int) else None
        if question is not None and not question.done():
            question.set_result(str(body.get("line")))

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a callback of asyncio's server is a task"
        if len(self._tasks) >= _MOST_CONNECTIONS:
            writer.transport.abort()
            return
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError) as error:
            _log.info("gate.connection_ended", error=str(error) or type(error).__name__)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = FarChannel(reader, writer, most_bytes=_REQUEST_BYTES)
        if not self._may_call(writer.get_extra_info("ssl_object")):
            _log.warning("gate.caller_refused", peer=str(writer.get_extra_info("peername")))
            await channel.send(error_of(PermissionDeniedError("this certificate may not call a node")))
            return
        try:
            async with asyncio.timeout(_IDLE_S):
                first = await channel.receive()
        except TimeoutError:
            return
        if first.size_bytes > _FIRST_BYTES:
            return
        match first.body.get("open"):
            case "calls":
                await self._pass_calls(channel, first.body)
            case "port":
                await self._pass_stream(reader, writer, lambda: self._open_port(first.body))
            case "volume":
                await self._pass_stream(reader, writer, lambda: self._ways.volume(first.body.get("params")))
            case _:
                await channel.send(error_of(InvalidRequestError("a node of this release does not open this")))

    # ---- calls ----

    async def _pass_calls(self, far: FarChannel, first: dict[str, Any]) -> None:
        if first.get("protocol") != PROTOCOL:
            await far.send(error_of(InvalidRequestError(f"this node speaks protocol {PROTOCOL} of the cluster")))
            return
        await far.send({"hello": self._hello})
        self._callers.add(far)
        beating = asyncio.create_task(_beat(far))
        try:
            near = await self._reach_supervisor()
            try:
                await far.send({"ready": True})
                self._ready.add(far)
                await _both(self._pass_requests(far, near), _pass_answers(near, far))
            finally:
                self._ready.discard(far)
                near.close()
        finally:
            self._callers.discard(far)
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _pass_requests(self, far: FarChannel, near: NodeChannel) -> None:
        while True:
            message = await far.receive()
            method = find_method(message.body)
            if "answered" in message.body:
                self._answered(message.body)
            elif method is not None and (method.sockets or method.terms.is_operators):
                refusal = error_of(PermissionDeniedError(f"{method.name} is not for other machines"))
                await far.send({"id": message.body.get("id"), **refusal})
            else:
                await near.send(message.body)

    async def _reach_supervisor(self) -> NodeChannel:
        while True:
            try:
                return await self._ways.supervisor()
            except OSError:  # it is restarting; the beats tell the caller that this machine lives
                await asyncio.sleep(_LOOK_S)

    # ---- streams ----

    async def _open_port(self, first: dict[str, Any]) -> socket.socket:
        sandbox_id, port = first.get("sandbox_id"), first.get("port")
        if not isinstance(sandbox_id, str) or not isinstance(port, int) or not 0 < port < 1 << 16:
            raise InvalidRequestError("a port of a sandbox is asked for by its id and a number")
        return await self._ways.port(sandbox_id, port)

    async def _pass_stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reach: Callable[[], Awaitable[socket.socket]]
    ) -> None:
        try:
            sock = await reach()
        except CloisterError as error:
            writer.write(packed(error_of(error)))
        except OSError:
            writer.write(packed({"closed": True}))
        else:
            try:
                near_reader, near_writer = await asyncio.open_connection(sock=sock, limit=_BUFFER_BYTES)
            except BaseException:
                sock.close()
                raise
            try:
                writer.write(packed({"opened": True}))
                await _both(_copy(reader, near_writer), _copy(near_reader, writer))
            finally:
                near_writer.transport.abort()
            return
        await writer.drain()
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_FIRST_S):
                await writer.wait_closed()


async def _beat(far: FarChannel) -> None:
    """Show the caller that this process lives. Ends with the connection."""
    with contextlib.suppress(ConnectionError):
        while True:
            await asyncio.sleep(BEAT_S)
            await far.send({"beat": 1})


async def _pass_answers(near: NodeChannel, far: FarChannel) -> None:
    while True:
        message: Message = await near.receive()
        message.close_fds()
        await far.send(message.body)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the source ends, then close the target: TLS has no end of one direction alone (asyncio)."""
    while data := await reader.read(_BUFFER_BYTES):
        writer.write(data)
        await writer.drain()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _both(*works: Awaitable[None]) -> None:
    """Run both until one fails, or both are done."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
