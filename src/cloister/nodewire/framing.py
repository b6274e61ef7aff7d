"""Framing of the node protocol: how one JSON object and its descriptors cross a ``SOCK_SEQPACKET`` unix socket.

Knows no method.

::

    message = piece* last-piece        every piece is one packet
    piece   = "+" bytes                more follows
    last    = "." bytes                the message is complete; this packet carries the descriptors

A piece has at most :data:`MAX_PIECE_BYTES`, so that it fits the default socket buffer. A message has at most
:data:`MAX_MESSAGE_BYTES`. Invariant: a descriptor that arrives is given to the caller or closed.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cloister.nodewire.codec import dump_object

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MAX_PIECE_BYTES",
    "ChannelClosedError",
    "Message",
    "NodeChannel",
    "ProtocolError",
    "split_message",
]

MAX_PIECE_BYTES = 180_000
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
_MAX_FDS = 16
_MORE = b"+"
_LAST = b"."


class ChannelClosedError(ConnectionError):
    """The other side has gone."""


class ProtocolError(ConnectionError):
    """The other side broke the framing: the connection cannot be used any more."""


@dataclass(frozen=True)
class Message:
    """A received object and its descriptors, which the receiver owns."""

    body: dict[str, Any]
    fds: tuple[int, ...] = ()
    size_bytes: int = 0
    """Size of the object as it was received."""

    def close_fds(self) -> None:
        """Close the descriptors, for a receiver that does not use them."""
        for fd in self.fds:
            os.close(fd)


def split_message(body: dict[str, Any]) -> list[bytes]:
    """The packets that carry ``body``, in order.

    Raises:
        ProtocolError: the message is longer than :data:`MAX_MESSAGE_BYTES`.
    """
    data = json.dumps(body, separators=(",", ":"), default=dump_object).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a message of {len(data)} bytes is longer than {MAX_MESSAGE_BYTES}")
    pieces = [data[start : start + MAX_PIECE_BYTES] for start in range(0, len(data), MAX_PIECE_BYTES)]
    return [_MORE + piece for piece in pieces[:-1]] + [_LAST + pieces[-1]]


class NodeChannel:
    """One connected ``SOCK_SEQPACKET`` socket on the running loop; owns the socket.

    ``send`` may be called from many tasks, ``receive`` from one. Both wait without blocking the loop.
    """

    def __init__(
        self, sock: socket.socket, *, most_bytes: int = MAX_MESSAGE_BYTES, takes_fds: bool = True, stall_s: float | None = None
    ) -> None:
        """``most_bytes`` bounds a received message. Without ``takes_fds``, a message with descriptors breaks the framing.

        A packet that waits longer than ``stall_s`` for the other side to read closes the channel; None waits without a bound.
        """
        sock.setblocking(False)
        self._sock = sock
        self._most_bytes = most_bytes
        self._most_fds = _MAX_FDS if takes_fds else 0
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._send_lock = asyncio.Lock()
        self._closed = False
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def peer_uid(self) -> int:
        """The uid of the process that connected (``SO_PEERCRED``, unix(7))."""
        credentials = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[4:8], "little")

    async def send(self, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send one message. The caller keeps its descriptors.

        Raises:
            ChannelClosedError: the other side has gone.
            ProtocolError: the message is too long; nothing was sent.
        """
        packets = split_message(body)
        async with self._send_lock:
            for packet in packets[:-1]:
                await self._send_packet(packet, ())
            await self._send_packet(packets[-1], fds)

    async def _send_packet(self, packet: bytes, fds: Sequence[int]) -> None:
        while True:
            if self._closed:
                raise ChannelClosedError("the channel is closed")
            try:
                if fds:
                    socket.send_fds(self._sock, [packet], list(fds), socket.MSG_NOSIGNAL)
                else:
                    self._sock.send(packet, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                await self._wait_until_read()
            except OSError as error:
                raise ChannelClosedError(str(error)) from error
            else:
                return

    async def _wait_until_read(self) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                await self._wait(for_write=True)
        except TimeoutError as error:
            self.close()
            raise ChannelClosedError("the other side does not read") from error

    async def receive(self) -> Message:
        """The next message.

        Raises:
            ChannelClosedError: the other side has gone, or :meth:`close` was called.
            ProtocolError: the framing was broken.
        """
        gathered = bytearray()
        while True:
            data, fds = await self._receive_packet()
            mark, piece = data[:1], data[1:]
            gathered += piece
            if mark == _LAST and len(gathered) <= self._most_bytes:
                return Message(_decode(bytes(gathered), fds), tuple(fds), len(gathered))
            _close_all(fds)
            if mark != _MORE or len(gathered) > self._most_bytes:
                raise ProtocolError("broken framing")

    async def _receive_packet(self) -> tuple[bytes, list[int]]:
        while True:
            if self._closed:
                raise ChannelClosedError("the channel is closed")
            try:
                data, fds, flags, _ = socket.recv_fds(self._sock, MAX_PIECE_BYTES + 1, self._most_fds, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                await self._wait(for_write=False)
                continue
            except OSError as error:
                raise ChannelClosedError(str(error)) from error
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                _close_all(fds)
                raise ProtocolError("a packet is too long, or has too many descriptors")
            if not data:
                _close_all(fds)
                raise ChannelClosedError("the other side closed the channel")
            return data, fds

    async def _wait(self, *, for_write: bool) -> None:
        add, remove = (self._loop.add_writer, self._loop.remove_writer) if for_write else (self._loop.add_reader, self._loop.remove_reader)
        ready: asyncio.Future[None] = self._loop.create_future()
        self._waiters.add(ready)
        add(self._sock, _resolve, ready)
        try:
            await ready
        finally:
            self._waiters.discard(ready)
            if not self._closed:
                remove(self._sock)

    def close(self) -> None:
        """Close the socket. Tasks that wait in ``send`` or ``receive`` get :class:`ChannelClosedError`."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for ready in tuple(self._waiters):
            _resolve(ready)


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _decode(data: bytes, fds: Sequence[int]) -> dict[str, Any]:
    try:
        body = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        _close_all(fds)
        raise ProtocolError("a message is not JSON") from error
    if not isinstance(body, dict):
        _close_all(fds)
        raise ProtocolError("a message is not a JSON object")
    return body
