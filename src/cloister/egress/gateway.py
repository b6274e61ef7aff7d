"""Accepts the connections that the kernel redirects, decides about each, and serves it until it ends.

Owns the listening socket and the tasks of all connections. Invariant I4: a connection is dialled only under a verdict of the policy in
force. A connection that cannot be judged, or goes beyond a bound, is reset. At a bound for all sandboxes, the one with the most connections
loses its oldest for one that has fewer (:class:`~cloister.network.limits.FairBound`).
Runs in: egress process, on the event loop. Source: ip(7), SO_ORIGINAL_DST in linux/netfilter_ipv4.h.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address

import structlog

from cloister.egress.connection import Connection, DialError, Interceptor, Upstream
from cloister.egress.inspection import Inspected, InspectionError, inspect
from cloister.egress.named_requests import relay_named_requests
from cloister.egress.policies import Admitted, PolicyTable
from cloister.egress.records import RecordBuffer
from cloister.egress.splice import keep_alive, splice
from cloister.egress.streams import ByteStream
from cloister.egress.verdicts import refused
from cloister.model.connection import ConnectionRecord
from cloister.network.limits import FairBound

__all__ = ["INTERCEPTED", "INTERCEPTED_PER_SANDBOX", "PER_SANDBOX", "TOTAL", "Gateway", "Parts", "original_destination"]

_log = structlog.get_logger("cloister.egress")
_SO_ORIGINAL_DST = 80
_SOCKADDR_IN = struct.Struct("!2xH4s8x")
_ACCEPTS_AT_ONCE = 64
PER_SANDBOX, TOTAL = 2048, 16_384
"""Connections of one sandbox, and of all."""
INTERCEPTED_PER_SANDBOX, INTERCEPTED = 256, 2048
"""Those among them whose requests are read: each holds two TLS connections and a message."""
_PAUSE_S = 0.2
_OUT_OF_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def original_destination(sock: socket.socket) -> tuple[str, int]:
    """Where a redirected connection was going. Raises: OSError: it was not redirected."""
    port, address = _SOCKADDR_IN.unpack(sock.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, _SOCKADDR_IN.size))
    return str(IPv4Address(address)), port


@dataclass(frozen=True)
class Parts:
    """What a gateway uses."""

    policies: PolicyTable
    dial: Callable[[Connection], Awaitable[Upstream]]
    records: RecordBuffer
    interceptor: Interceptor | None
    """None: connections with a header rule are refused."""
    inspects: bool = False
    """Whether TLS of sandboxes that are limited to names is opened without a header rule too."""
    destination_of: Callable[[socket.socket], tuple[str, int]] = original_destination
    per_sandbox: int = PER_SANDBOX
    total: int = TOTAL
    intercepted_per_sandbox: int = INTERCEPTED_PER_SANDBOX
    intercepted: int = INTERCEPTED


class Gateway:
    """The listener and its connections."""

    def __init__(self, listener: socket.socket, parts: Parts) -> None:
        """Takes over ``listener``, a listening socket."""
        self._listener = listener
        self._parts = parts
        self._bound = FairBound(parts.per_sandbox, parts.total)
        self._intercepted = FairBound(parts.intercepted_per_sandbox, parts.intercepted)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        listener.setblocking(False)

    def start(self) -> None:
        """Accept from now on."""
        self._loop.add_reader(self._listener, self._accept)

    async def stop(self) -> None:
        """Accept no more, and cut every connection."""
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                sock, (source, _) = self._listener.accept()
            except OSError as error:
                if error.errno in _OUT_OF_ROOM:  # the connection waits in the kernel; without a pause this would spin
                    _log.warning("egress.no_descriptors", error=str(error))
                    self._loop.remove_reader(self._listener)
                    self._loop.call_later(_PAUSE_S, self.start)
                return
            sock.setblocking(False)
            self._begin(ByteStream(sock), source)

    def _begin(self, stream: ByteStream, source: str) -> None:
        admitted = self._parts.policies.find(source)
        try:
            original = self._parts.destination_of(stream.socket)
            is_direct = original == stream.socket.getsockname()[:2]
            keep_alive(stream.socket)
            stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            stream.abort()
            return
        if admitted is None or is_direct:
            stream.abort()
            return
        connection = Connection(
            admitted.sandbox_id, source, original, stream, lambda: admitted.judge, open=self._parts.dial, pace=admitted.pace
        )
        use = self._bound.take(source, partial(_give_up, connection))
        if use is None:
            connection.verdict = refused("too_many_connections")
            connection.abort()
            self._note(connection)
            return
        admitted.connections.add(connection)
        connection.task = self._loop.create_task(self._serve(admitted, connection))
        self._tasks.add(connection.task)
        connection.task.add_done_callback(partial(self._end, admitted, connection, use))

    def _end(self, admitted: Admitted, connection: Connection, use: object, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        admitted.connections.discard(connection)
        self._bound.give_back(connection.source, use)
        if task.cancelled() or task.exception() is not None:
            connection.abort()
        else:
            connection.close()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("egress.connection_failed", sandbox_id=connection.sandbox_id, exc_info=error)
        self._note(connection)

    async def _serve(self, admitted: Admitted, connection: Connection) -> None:
        try:
            await self._judge(admitted, connection)
            if connection.verdict is None or not connection.verdict.is_allowed:
                connection.abort()
            elif connection.rule is not None or self._is_inspected(admitted, connection):
                await self._intercept(connection)
            elif connection.verdict.is_by_name and not connection.is_tls:
                await relay_named_requests(connection)
            else:
                upstream = await connection.dial()
                await splice(connection.client, upstream.stream)
        except DialError as error:
            connection.verdict = refused(error.reason)
            connection.abort()
        except OSError:
            connection.abort()  # one end was reset: so is the other

    def _is_inspected(self, admitted: Admitted, connection: Connection) -> bool:
        is_by_name = connection.verdict is not None and connection.verdict.is_by_name
        return self._parts.inspects and connection.is_tls and is_by_name and admitted.policy.is_limited_to_names

    async def _intercept(self, connection: Connection) -> None:
        if self._parts.interceptor is None:
            raise DialError("no_interceptor")
        use = self._intercepted.take(connection.source, partial(_give_up, connection))
        if use is None:
            raise DialError("too_many_connections")
        try:
            await connection.pace.handshake()
            await self._parts.interceptor.intercept(connection)
        finally:
            self._intercepted.give_back(connection.source, use)

    async def _judge(self, admitted: Admitted, connection: Connection) -> None:
        """Set the connection's name, verdict and rule. Raises: OSError."""
        address, port = IPv4Address(connection.original[0]), connection.original[1]
        found, fault = Inspected(), None
        if admitted.judge.needs_name(address, port):
            try:
                found = await inspect(connection.client, port)
            except InspectionError as error:
                fault = error.reason
        judge = admitted.judge  # the policy may have changed meanwhile
        verdict = judge.judge(address, port, found.name)
        connection.name, connection.is_tls, connection.proxy = found.name, found.is_tls, judge.policy.proxy
        if verdict.is_allowed:
            connection.rule = judge.rule_for(found.name)
        elif fault is not None:
            verdict = refused(fault)
        if found.is_encrypted and verdict.is_by_name and connection.rule is None:
            verdict = refused("encrypted_client_hello")
        connection.verdict = verdict

    def _note(self, connection: Connection) -> None:
        if connection.verdict is None:
            connection.verdict = refused("closed")
        upstream = connection.upstream.address if connection.upstream else ""
        self._parts.records.add(
            ConnectionRecord(
                sandbox_id=connection.sandbox_id,
                at=connection.began_at,
                protocol="tcp",
                address=upstream or connection.original[0],
                port=connection.original[1],
                name=connection.name,
                verdict="allowed" if connection.verdict.is_allowed else "refused",
                rule=connection.verdict.rule,
                duration_s=max(0.0, time.time() - connection.began_at),
                sent_bytes=connection.client.received,
                received_bytes=connection.client.sent,
            )
        )


def _give_up(connection: Connection) -> None:
    """Cut a connection, for one of a sandbox that has fewer."""
    connection.verdict = refused("too_many_connections")
    connection.cut()
