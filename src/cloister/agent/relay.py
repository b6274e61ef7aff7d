"""Relays connections of the server to ports of this sandbox that listen on loopback (protocol/relay.py).

Only where pid 1 gives a listening socket for it: a sandbox whose network stack the host reaches by its address alone (the gVisor
runtime). Programs of the sandbox gain nothing by it: they reach loopback by themselves, and a connection from the sandbox is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket

from cloister.protocol.relay import RELAYED, REQUEST_BYTES, port_of

__all__ = ["listener_at", "serve_relay"]

_LOOPBACK = ("127.0.0.1", "::1")
_REQUEST_S = 10.0
_MOST_CONNECTIONS = 4096
_PIECE_BYTES = 256 << 10


def listener_at(fd: int) -> socket.socket | None:
    """The listening socket at an inherited descriptor, or None if there is none."""
    try:
        listener = socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listener.set_inheritable(False)
            return listener
    except OSError:  # a socket that cannot listen
        pass
    listener.detach()
    return None


async def serve_relay(listener: socket.socket) -> asyncio.Server:
    """Relay until the server is closed."""
    relay = _Relay()
    return await asyncio.start_server(relay.take, sock=listener, limit=_PIECE_BYTES)


class _Relay:
    def __init__(self) -> None:
        self._count = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its request to its end."""
        self._count += 1
        try:
            if self._count <= _MOST_CONNECTIONS and not _is_from_here(writer):
                await _relay(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):  # one side has gone: so does the other
            pass
        finally:
            self._count -= 1
            writer.transport.abort()


def _is_from_here(writer: asyncio.StreamWriter) -> bool:
    peer, own = writer.get_extra_info("peername")[0], writer.get_extra_info("sockname")[0]
    return bool(peer == own or ipaddress.ip_address(peer).is_loopback)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(_REQUEST_S):
        port = port_of(await reader.readexactly(REQUEST_BYTES))
        inner_reader, inner_writer = await _connect(port)
    try:
        writer.write(RELAYED)
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(reader, inner_writer))
            both.create_task(_copy(inner_reader, writer))
    except* (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        inner_writer.transport.abort()


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the port on loopback. Raises: OSError, of the last address."""
    for host in _LOOPBACK[:-1]:
        with contextlib.suppress(ConnectionRefusedError):
            return await asyncio.open_connection(host, port, limit=_PIECE_BYTES)
    return await asyncio.open_connection(_LOOPBACK[-1], port, limit=_PIECE_BYTES)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end of one direction, and pass that end on."""
    while data := await reader.read(_PIECE_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
        await writer.drain()
