"""The protocol socket of a driver (drivers/README.md): messages in and out, and the answers that the driver waits for. Never blocks."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping

from cloister.agent.interpreter.messages import Message, MessageReader

__all__ = ["DriverChannel"]

_READ_BYTES = 16 << 10
"""Read at once. As messages of a few bytes, these cost some milliseconds, in which the agent does nothing else."""
_LONG_READ_BYTES = 64 << 10
"""Read at once of a long message."""
_MAX_MESSAGE_BYTES = 96 << 20
_MAX_UNREAD_ANSWERS = 2000


class DriverChannel:
    """The agent's end of one socket. The process owns the socket and closes it."""

    def __init__(self, sock: socket.socket, max_output_bytes: int) -> None:
        self._socket = sock
        self._reader = MessageReader(min(max_output_bytes + (1 << 20), _MAX_MESSAGE_BYTES))
        self._outgoing = bytearray()
        self._unread_answers = 0
        """Answers since the socket last took everything that was to be sent."""
        self.is_at_end = False
        """Whether the driver has closed its end."""

    def fileno(self) -> int:
        """The socket's descriptor, to wait for."""
        return self._socket.fileno()

    @property
    def is_in_long_message(self) -> bool:
        """Whether a message has begun to arrive that is longer than one read."""
        return self._reader.is_in_line_of(_READ_BYTES)

    def receive(self, run_id: int) -> list[Message] | None:
        """The messages that the bytes complete which have arrived, or None if no byte has. ``run_id`` is the present run's.

        Raises: ProtocolError.
        """
        try:
            data = self._socket.recv(_LONG_READ_BYTES if self.is_in_long_message else _READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        self.is_at_end = not data
        return self._reader.feed(data, run_id) if data else None

    def send(self, message: Mapping[str, object]) -> None:
        """Send a message, now or when the driver reads."""
        is_waiting = bool(self._outgoing)  # for the socket to take more
        self._outgoing += json.dumps(message).encode("ascii") + b"\n"
        if not is_waiting:
            self._flush()

    def answer(self, number: int) -> bool:
        """Tell the driver that its message was taken. False: it does not read its answers, and this one was not sent.

        A driver waits for each answer, so only a program that abuses the socket leaves many unread.
        """
        self._unread_answers += 1
        if self._unread_answers > _MAX_UNREAD_ANSWERS:
            return False
        self.send({"op": "ack", "ack": number})
        return True

    def stop_sending(self) -> None:
        """Wait no more for the driver to read."""
        asyncio.get_running_loop().remove_writer(self.fileno())

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            sent = self._socket.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._outgoing.clear()  # the driver is gone, which reading will show
            loop.remove_writer(self.fileno())
            return
        del self._outgoing[:sent]
        if self._outgoing:
            loop.add_writer(self.fileno(), self._flush)
        else:
            self._unread_answers = 0
            loop.remove_writer(self.fileno())
