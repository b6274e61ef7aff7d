"""Framing of the node protocol (docs/architecture.md), shared by the supervisor and the API process.

Owns how one JSON object and its descriptors cross a ``SOCK_SEQPACKET`` unix socket; knows no method.

::

    message = piece* last-piece        every piece is one packet
    piece   = "+" bytes                more follows
    last    = "." bytes                the message is complete; descriptors ride on this packet

A piece carries at most :data:`MAX_PIECE_BYTES`, so that it fits the default socket buffer; a message at most
:data:`MAX_MESSAGE_BYTES`. Invariant: a descriptor that arrives is either handed to the caller or closed.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MAX_MESSAGE_BYTES", "MAX_PIECE_BYTES", "ChannelClosedError", "Message", "NodeChannel", "ProtocolError", "split_message"]

MAX_PIECE_BYTES = 180_000
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
_MAX_FDS = 16
_MORE = b"+"
_LAST = b"."


class ChannelClosedError(ConnectionError):
    """The other side has gone."""


class ProtocolError(ConnectionError):
    """The other side broke the framing; the connection is of no further use."""


@dataclass(frozen=True)
class Message:
    """One received object and the descriptors that came with it, which the receiver owns."""

    body: dict[str, Any]
    fds: tuple[int, ...] = ()

    def close_fds(self) -> None:
        """Close the descriptors, for a receiver that has no use for them."""
        for fd in self.fds:
            os.close(fd)


def split_message(body: dict[str, Any]) -> list[bytes]:
    """The packets that carry ``body``, in order.

    Raises:
        ProtocolError: the message is longer than :data:`MAX_MESSAGE_BYTES`.
    """
    data = json.dumps(body, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a message of {len(data)} bytes is longer than {MAX_MESSAGE_BYTES}")
    pieces = [data[start : start + MAX_PIECE_BYTES] for start in range(0, len(data), MAX_PIECE_BYTES)]
    return [_MORE + piece for piece in pieces[:-1]] + [_LAST + pieces[-1]]


class NodeChannel:
    """One connected ``SOCK_SEQPACKET`` socket on the running loop; owns the socket.

    ``send`` may be called from many tasks, ``receive`` from one. Both wait without blocking the loop.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
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
        """Send one message; the descriptors stay the caller's.

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
                await self._wait(for_write=True)
            except OSError as error:
                raise ChannelClosedError(str(error)) from error
            else:
                return

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
            if mark == _LAST:
                return Message(_decode(bytes(gathered), fds), tuple(fds))
            _close_all(fds)
            if mark != _MORE or len(gathered) > MAX_MESSAGE_BYTES:
                raise ProtocolError("broken framing")

    async def _receive_packet(self) -> tuple[bytes, list[int]]:
        while True:
            if self._closed:
                raise ChannelClosedError("the channel is closed")
            try:
                data, fds, flags, _ = socket.recv_fds(self._sock, MAX_PIECE_BYTES + 1, _MAX_FDS, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                await self._wait(for_write=False)
                continue
            except OSError as error:
                raise ChannelClosedError(str(error)) from error
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                _close_all(fds)
                raise ProtocolError("a packet was cut short")
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
        """Close the socket; whoever waits in ``send`` or ``receive`` gets :class:`ChannelClosedError`."""
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
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        _close_all(fds)
        raise ProtocolError("a message is not JSON") from error
    if not isinstance(body, dict):
        _close_all(fds)
        raise ProtocolError("a message is not a JSON object")
    return body
