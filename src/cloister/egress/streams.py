"""A TCP connection as a stream of bytes, with back pressure and half-close. Owns its socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

__all__ = ["ByteStream"]

_RESET = struct.pack("ii", 1, 0)
"""``struct linger``: close by a reset."""


class ByteStream:
    """One end of a connection. One task may read while another writes. Errors of the connection are OSError."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes over ``sock``, which must be connected and non-blocking."""
        self.socket = sock
        self.received = 0
        """Bytes that came from the network."""
        self.sent = 0
        """Bytes that the kernel took."""
        self._first = b""
        self._loop = asyncio.get_running_loop()

    async def read(self, most: int = 1 << 16) -> bytes:
        """The next bytes, at most ``most``; empty: the peer ended its side."""
        if self._first:
            found, self._first = self._first[:most], self._first[most:]
            return found
        found = await self._loop.sock_recv(self.socket, most)
        self.received += len(found)
        return found

    def unread(self, data: bytes) -> None:
        """Put ``data`` back: the next :meth:`read` begins with it."""
        self._first = data + self._first

    def take_unread(self) -> bytes:
        """The bytes that were put back, which the caller uses itself."""
        found, self._first = self._first, b""
        return found

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``; returns when the kernel has taken it."""
        await self._loop.sock_sendall(self.socket, data)
        self.sent += len(data)

    def write_eof(self) -> None:
        """End this side: the peer reads the end of the stream."""
        with contextlib.suppress(OSError):  # the peer has reset it
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close it; the kernel sends what it has taken. Idempotent."""
        if self.socket.fileno() >= 0:
            self._loop.remove_reader(self.socket)
            self._loop.remove_writer(self.socket)
        self.socket.close()

    def abort(self) -> None:
        """Close it by a reset, so that the peer does not take it for a whole answer. Idempotent."""
        with contextlib.suppress(OSError):  # closed, or not connected
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()
