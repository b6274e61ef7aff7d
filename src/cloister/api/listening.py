"""Accepts connections within bounds: counts each from its acceptance, before a TLS handshake and the first byte.

aiohttp and asyncio would accept connections until no descriptor is left. Owns the listening socket while it serves.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from asyncio import sslproto
from collections.abc import Callable

import structlog
from aiohttp import web

from cloister.api.connections import Connection, Connections, Refusal
from cloister.api.peers import Peers

__all__ = ["BoundedSite"]

_log = structlog.get_logger("cloister.api")
_BACKLOG = 1024
_ACCEPTS = 100
"""Connections accepted in a row, before other tasks run."""
_RETRY_S = 0.5
_TLS_SHUTDOWN_S = 5.0
_UNSENT_BYTES = 256 * 1024
"""Bound of an answer's unsent bytes in the kernel, for a client that does not read."""
_STATUS = {Refusal.PEER: "429 Too Many Requests", Refusal.SERVER: "503 Service Unavailable"}
_TLS_BUFFER_BYTES = 32 * 1024
sslproto.SSLProtocol.max_size = _TLS_BUFFER_BYTES
"""asyncio allocates and fills a buffer of 256 KiB for each TLS connection before the handshake. Source: asyncio/sslproto.py."""
MakeProtocol = Callable[[Connection], asyncio.Protocol]


class BoundedSite(web.BaseSite):
    """A listening socket of a runner; ``make`` makes the protocols of its connections."""

    def __init__(
        self,
        runner: web.BaseRunner,
        make: MakeProtocol,
        listener: socket.socket,
        connections: Connections,
        peers: Peers,
        context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(runner, ssl_context=context)
        self._make = make
        self._listener = listener
        self._connections = connections
        self._peers = peers
        self._loop = asyncio.get_running_loop()
        self._starting: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._refused: Refusal | None = None

    @property
    def name(self) -> str:
        """The address, for display."""
        host, port = self._listener.getsockname()[:2]
        return f"{'http' if self._ssl_context is None else 'https'}://{host}:{port}"

    async def start(self) -> None:
        """Begin to listen."""
        await super().start()
        self._listener.setblocking(False)
        self._listener.listen(_BACKLOG)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    async def stop(self) -> None:
        """Stop listening; open connections stay."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        await super().stop()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor or memory is free: others may be freed meanwhile
                _log.error("connection.not_accepted", error=str(error))
                self._loop.remove_reader(self._listener.fileno())
                self._retry = self._loop.call_later(_RETRY_S, self._loop.add_reader, self._listener.fileno(), self._accept)
                return
            self._take(sock, address[0])

    def _take(self, sock: socket.socket, address: str) -> None:
        sock.setblocking(False)
        connection = self._connections.admit(self._peers.bounded(address))
        if isinstance(connection, Refusal):
            self._refuse(sock, connection)
            return
        self._refused = None
        task = self._loop.create_task(self._serve(sock, connection))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _serve(self, sock: socket.socket, connection: Connection) -> None:
        """Make the connection's transport and protocol, which then own the socket."""
        policy, task = self._connections.policy, asyncio.current_task()
        try:
            # Without a bound, a client that never reads would keep its connection, and megabytes of kernel memory, for ever.
            # Source: tcp(7); TCP_NOTSENT_LOWAT: include/uapi/linux/tcp.h, Linux 3.12.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(policy.stall_timeout_s * 1000))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        except OSError:
            self._connections.lose(connection)
        if not connection.is_open or task is None:
            sock.close()
            return
        connection.abort = connection.expire = task.cancel  # until the transport exists
        timeouts = (
            {} if self._ssl_context is None else {"ssl_handshake_timeout": policy.head_timeout_s, "ssl_shutdown_timeout": _TLS_SHUTDOWN_S}
        )
        try:
            await self._loop.connect_accepted_socket(lambda: self._make(connection), sock, ssl=self._ssl_context, **timeouts)
        except OSError as error:  # such as a handshake that failed or took too long
            _log.debug("connection.not_made", error=str(error))
            self._connections.lose(connection)
        except asyncio.CancelledError:
            self._connections.lose(connection)
            raise

    def _refuse(self, sock: socket.socket, refusal: Refusal) -> None:
        """Send the reason if the socket takes it without waiting, and close."""
        if self._refused is not refusal:
            self._refused = refusal  # once for a series: a flood must not fill the log
            _log.warning("connection.refused", reason=refusal.value, connections=len(self._connections))
        with sock:
            if self._ssl_context is None:
                status = _STATUS[refusal]
                body = json.dumps({"code": int(status[:3]), "message": f"{refusal.value}; close some, or try again later"})
                head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                try:
                    sock.send(f"{head}Retry-After: 1\r\nConnection: close\r\n\r\n{body}".encode())
                except OSError:
                    return
