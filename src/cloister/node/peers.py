"""One connection to the node protocol's socket: its bounds on requests in flight, and its queue of events.

The peer is the API process, which may be compromised. Whatever it sends, or leaves unread, costs the supervisor bounded memory and
descriptors, and delays no other peer. Event loop only.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import structlog

from cloister.nodewire.framing import Message, NodeChannel
from cloister.nodewire.methods import find_method

__all__ = ["MAX_CONNECTIONS", "MAX_REQUEST_BYTES", "Peer", "Seldom"]

_log = structlog.get_logger("cloister.node.server")
MAX_CONNECTIONS = 8
"""Connections of one user: a server has one API process."""
MAX_REQUEST_BYTES = 8 << 20
"""Twice the longest definition of a build."""
MAX_EVENTS = 4096
"""Events that wait for a peer to read. A peer that leaves more unread is disconnected; it asks for the state when it reconnects."""
_MAX_IN_FLIGHT = 1024
_MAX_LARGE = 2
_MAX_DESCRIPTORS = 64
"""Answers with descriptors in flight."""
_SMALL_BYTES = 64 << 10
_STALL_S = 30.0
"""How long a packet may wait for the peer to read."""
_QUIET_S = 10.0


class Peer:
    """Owns its connection. One task calls :meth:`take`, another runs :meth:`send_events`."""

    def __init__(self, connection: socket.socket) -> None:
        self.channel = NodeChannel(connection, most_bytes=MAX_REQUEST_BYTES, takes_fds=False, stall_s=_STALL_S)
        self.uid = self.channel.peer_uid()
        self.descriptors = asyncio.Semaphore(_MAX_DESCRIPTORS)
        """Held by each answer with descriptors, from the call until it is sent."""
        self._in_flight = asyncio.Semaphore(_MAX_IN_FLIGHT)
        self._large = asyncio.Semaphore(_MAX_LARGE)
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue(MAX_EVENTS)

    def tell(self, event: dict[str, Any]) -> None:
        """Queue an event, without waiting for the peer."""
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            _log.warning("peer.does_not_read", uid=self.uid)
            self.channel.close()

    async def send_events(self) -> None:
        """Send the queued events until the connection breaks. Raises: ConnectionError."""
        while True:
            await self.channel.send(await self._events.get())

    async def take(self) -> tuple[Message, Callable[[object], None]]:
        """Wait for the next request and for its slots. The second value, called with any argument, gives the slots back.

        Long requests and requests with long answers need a second slot, of which there are few: this bounds the memory that they
        take together. A method that may take long is excepted, or its callers would delay one another. Raises: ConnectionError.
        """
        message = await self.channel.receive()
        method = find_method(message.body)
        slots = [self._in_flight]
        is_long = message.size_bytes > _SMALL_BYTES and not (method is not None and method.terms.may_take_long)
        if is_long or (method is not None and method.terms.has_long_answer):
            slots.append(self._large)
        for slot in slots:
            await slot.acquire()

        def release(_: object) -> None:
            for slot in slots:
                slot.release()

        return message, release


class Seldom:
    """A warning that a peer can cause at any rate: logged at most once in ten seconds, with the number of times."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._times = 0
        self._said_at = -_QUIET_S

    def __call__(self, **fields: object) -> None:
        """Count one more, and log it if it is time."""
        self._times += 1
        if time.monotonic() - self._said_at >= _QUIET_S:
            _log.warning(self._event, times=self._times, **fields)
            self._times, self._said_at = 0, time.monotonic()
