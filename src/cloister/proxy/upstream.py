"""Connections into sandboxes: made by the node, kept alive by port, dropped when their sandbox ends.

Owns the pool and the knowledge of which request uses which sandbox. Invariant: once a sandbox has ended nothing here holds one of its
sockets, for a socket keeps its network namespace alive.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import ClientRequest, ClientTimeout
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace

from cloister.proxy.routes import Dialer

__all__ = ["PortClosedError", "SandboxConnector", "SandboxEndedError", "Users"]

_KEEP_ALIVE_S = 30.0
_ATTEMPT_DELAYS_S = (0.02, 0.05, 0.1, 0.15, 0.2)
"""Waits between attempts at a closed port: programs are often asked a moment before they listen."""
_CONNECT_TIMEOUT_S = 5.0
_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::ffff:127.0.0.1"}
_LOOPBACK_6 = {socket.AF_INET6: "::1"}
"""Where programs listen, by the family of the node's sockets: nearly all on the first, some (``localhost`` of Node) on the second only."""


class PortClosedError(aiohttp.ClientConnectionError):
    """Nothing listens on the port."""


class SandboxEndedError(Exception):
    """The sandbox ended while a request to it was under way."""


class SandboxConnector(aiohttp.BaseConnector):
    """An aiohttp connector whose hosts are sandbox ids."""

    def __init__(self, dialer: Dialer) -> None:
        super().__init__(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
        self._dialer = dialer

    async def _create_connection(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> ResponseHandler:
        del traces, timeout
        sandbox_id, port = req.connection_key.host, req.connection_key.port
        for delay_s in (*_ATTEMPT_DELAYS_S, None):
            try:
                try:
                    return await self._connect(sandbox_id, port, _LOOPBACK)
                except ConnectionRefusedError:
                    return await self._connect(sandbox_id, port, _LOOPBACK_6)
            except OSError as error:
                if delay_s is None or not isinstance(error, ConnectionRefusedError):
                    raise PortClosedError(f"port {port} is not open") from error
                await asyncio.sleep(delay_s)
        raise AssertionError("the last attempt returns or raises")

    async def _connect(self, sandbox_id: str, port: int | None, loopback: dict[socket.AddressFamily, str]) -> ResponseHandler:
        """One attempt, on a socket of its own: one that was refused is of no use any more."""
        sock = await self._dialer.dial(sandbox_id)
        try:
            if (host := loopback.get(sock.family)) is None:
                raise ConnectionRefusedError
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await self._loop.sock_connect(sock, (host, port))
            _, protocol = await self._loop.create_connection(self._factory, sock=sock)
        except BaseException:
            sock.close()
            raise
        return protocol

    def drop(self, sandbox_id: str) -> None:
        """Close the idle connections of a sandbox."""
        for key in [key for key in self._conns if key.host == sandbox_id]:
            for protocol, _ in self._conns.pop(key):
                protocol.abort()


class Users:
    """The requests under way, by sandbox, so that its end can end them."""

    def __init__(self) -> None:
        self._using: defaultdict[str, set[Use]] = defaultdict(set)

    def use(self, sandbox_id: str) -> Use:
        """A context in which the current task is interrupted by SandboxEndedError when the sandbox ends."""
        return Use(self._using, sandbox_id)

    def end(self, sandbox_id: str) -> None:
        """Interrupt all requests to the sandbox."""
        for use in self._using.pop(sandbox_id, ()):
            use.interrupt()


class Use:
    """One request's use of a sandbox; see :meth:`Users.use`."""

    def __init__(self, using: defaultdict[str, set[Use]], sandbox_id: str) -> None:
        self._using = using
        self._sandbox_id = sandbox_id
        self._task = asyncio.current_task()
        self._interrupted = False

    def interrupt(self) -> None:
        """Cancel the task; the context turns that into SandboxEndedError."""
        if self._task is not None and not self._interrupted:
            self._interrupted = True
            self._task.cancel()

    def __enter__(self) -> Self:
        self._using[self._sandbox_id].add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        users = self._using.get(self._sandbox_id)
        if users is not None:
            users.discard(self)
            if not users:
                del self._using[self._sandbox_id]
        if self._interrupted and self._task is not None and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise SandboxEndedError from error
