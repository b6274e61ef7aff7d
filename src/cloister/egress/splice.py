"""Passes the bytes of two connections on to each other, both ways, until both have ended.

All connections share one buffer: bytes are received into it and sent at once. Bytes that the other side does not take are copied, and
nothing more is read on that way until it is sent; so a connection holds memory only while its receiver is slow. An end of stream is passed
on as one (half-close). There is no time limit: the kernel's keepalive ends a connection whose peer is gone.
Runs in: egress process, on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

from cloister.egress.streams import ByteStream

__all__ = ["keep_alive", "splice"]

_SHARED = memoryview(bytearray(256 << 10))
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 300), (socket.TCP_KEEPINTVL, 60), (socket.TCP_KEEPCNT, 5))


def keep_alive(sock: socket.socket) -> None:
    """Let the kernel find out, within ten minutes, that the peer of a silent connection is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


async def splice(near: ByteStream, far: ByteStream) -> None:
    """Pass bytes on until both have ended. Counts them in the streams. Raises: OSError: one was reset; the caller resets the other."""
    changed = asyncio.Event()
    ways = [_Way(near, far, changed), _Way(far, near, changed)]
    try:
        for way in ways:
            way.start()
        while not all(way.is_ended for way in ways):
            await changed.wait()
            changed.clear()
            for way in ways:
                if way.error is not None:
                    raise way.error
    finally:
        for way in ways:
            way.stop()


class _Way:
    """One direction."""

    def __init__(self, source: ByteStream, target: ByteStream, changed: asyncio.Event) -> None:
        self._source, self._target = source, target
        self._from, self._to = source.socket, target.socket
        self._kept = source.take_unread()
        self._loop = asyncio.get_running_loop()
        self._changed = changed
        self.is_ended = False
        self.error: OSError | None = None

    def start(self) -> None:
        if self._kept:
            self._loop.add_writer(self._to, self._send_kept)
        else:
            self._loop.add_reader(self._from, self._receive)

    def stop(self) -> None:
        for remove, sock in ((self._loop.remove_reader, self._from), (self._loop.remove_writer, self._to)):
            if sock.fileno() >= 0:
                remove(sock)

    def _receive(self) -> None:
        try:
            count = self._from.recv_into(_SHARED)
            self._source.received += count
            if not count:
                self._loop.remove_reader(self._from)
                self._end()
                return
            sent = 0
            with contextlib.suppress(BlockingIOError):
                sent = self._to.send(_SHARED[:count])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        self._target.sent += sent
        if sent < count:
            self._kept = bytes(_SHARED[sent:count])
            self._loop.remove_reader(self._from)
            self._loop.add_writer(self._to, self._send_kept)

    def _send_kept(self) -> None:
        try:
            sent = self._to.send(self._kept)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        self._target.sent += sent
        self._kept = self._kept[sent:]
        if not self._kept:
            self._loop.remove_writer(self._to)
            self._loop.add_reader(self._from, self._receive)

    def _end(self) -> None:
        self._target.write_eof()
        self.is_ended = True
        self._changed.set()

    def _fail(self, error: OSError) -> None:
        self.stop()
        self.error = error
        self._changed.set()
