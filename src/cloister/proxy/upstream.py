"""Connections into sandboxes: created by the node, kept alive for each port, closed when their sandbox ends.

Owns the connection pool and the table of requests under way. Invariant: after a sandbox ended, this module has none of its sockets open,
because a socket keeps its network namespace alive.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import defaultdict
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import ClientRequest, ClientTimeout
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace

from cloister.errors import UnavailableError
from cloister.proxy.reach import CONNECT_TIMEOUT_S, Reach
from cloister.proxy.routes import Dialer, FarDialer

__all__ = ["ActiveRequest", "ActiveRequests", "NoTlsError", "PortClosedError", "SandboxConnector", "SandboxEndedError"]

_KEEP_ALIVE_S = 30.0


class PortClosedError(aiohttp.ClientConnectionError):
    """No program listens on the port."""


class SandboxEndedError(UnavailableError):
    """The sandbox ended during a request."""

    code = "sandbox_ended"


class NoTlsError(aiohttp.ClientConnectionError):
    """The program on the port does not speak TLS as its client said that it does."""


def _unverified() -> ssl.SSLContext:
    """TLS without a look at the certificate: the connection ends in the sandbox, so no other program can answer it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


class SandboxConnector(aiohttp.BaseConnector):
    """An aiohttp connector whose hosts are sandbox ids."""

    def __init__(self, dialer: Dialer | FarDialer) -> None:
        super().__init__(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
        self._far = dialer if isinstance(dialer, FarDialer) else None
        self._reach = None if isinstance(dialer, FarDialer) else Reach(dialer)
        self._tls = _unverified()

    async def _create_connection(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> ResponseHandler:
        del traces, timeout
        sandbox_id, port = req.connection_key.host, req.connection_key.port or 0
        try:
            if self._reach is not None:
                return await self._speak(await self._reach.open(sandbox_id, port), by_tls=req.is_ssl())
            assert self._far is not None, "one of the two is there"
            transport, early = await self._far.open_far(sandbox_id, port)
        except OSError as error:
            raise PortClosedError(f"port {port} is not open") from error
        return await self._speak_far(transport, early, by_tls=req.is_ssl())

    async def _speak(self, sock: socket.socket, *, by_tls: bool) -> ResponseHandler:
        """The protocol on a connected socket, which it takes over. Raises: NoTlsError."""
        options: dict[str, Any] = {"ssl": self._tls, "server_hostname": ""} if by_tls else {}  # an empty name sends none
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, protocol = await self._loop.create_connection(self._factory, sock=sock, **options)
        except BaseException as error:
            sock.close()
            if by_tls and isinstance(error, OSError):  # also a TimeoutError
                raise NoTlsError(f"the TLS handshake failed: {error}") from error
            raise
        return protocol

    async def _speak_far(self, transport: asyncio.Transport, early: bytes, *, by_tls: bool) -> ResponseHandler:
        """The same on a connection that a node carries. Raises: NoTlsError."""
        protocol = self._factory()
        transport.set_protocol(protocol)
        if by_tls:
            try:
                secure = await self._loop.start_tls(
                    transport, protocol, self._tls, server_hostname="", ssl_handshake_timeout=CONNECT_TIMEOUT_S
                )
            except OSError as error:
                raise NoTlsError(f"the TLS handshake failed: {error}") from error
            if secure is None:
                raise NoTlsError("the node closed the connection")
            transport = secure
        protocol.connection_made(transport)
        if early:
            protocol.data_received(early)
        transport.resume_reading()
        return protocol

    def drop(self, sandbox_id: str) -> None:
        """Close the idle connections of a sandbox."""
        for key in [key for key in self._conns if key.host == sandbox_id]:
            for protocol, _ in self._conns.pop(key):
                protocol.abort()


class ActiveRequests:
    """The requests under way, by sandbox, so that the end of a sandbox can abort them."""

    def __init__(self) -> None:
        self._active: defaultdict[str, set[ActiveRequest]] = defaultdict(set)

    def track(self, sandbox_id: str) -> ActiveRequest:
        """A context that raises SandboxEndedError in the current task if the sandbox ends."""
        return ActiveRequest(self._active, sandbox_id)

    def of(self, sandbox_id: str) -> frozenset[ActiveRequest]:
        """The requests to the sandbox."""
        return frozenset(self._active.get(sandbox_id, ()))

    def abort(self, sandbox_id: str, requests: Iterable[ActiveRequest] | None = None) -> None:
        """Abort all requests to the sandbox, or these of them; those that are over are left alone."""
        for request in self.of(sandbox_id) if requests is None else requests:
            request.interrupt()


class ActiveRequest:
    """One request; see :meth:`ActiveRequests.track`."""

    def __init__(self, active: defaultdict[str, set[ActiveRequest]], sandbox_id: str) -> None:
        self._active = active
        self._sandbox_id = sandbox_id
        self._task = asyncio.current_task()
        self._interrupted = False

    def interrupt(self) -> None:
        """Cancel the task; the context raises SandboxEndedError instead."""
        if self._task is not None and not self._interrupted and self in self._active.get(self._sandbox_id, ()):
            self._interrupted = True
            self._task.cancel()

    def __enter__(self) -> Self:
        self._active[self._sandbox_id].add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        requests = self._active.get(self._sandbox_id)
        if requests is not None:
            requests.discard(self)
            if not requests:
                del self._active[self._sandbox_id]
        if self._interrupted and self._task is not None and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise SandboxEndedError("the sandbox ended") from error
