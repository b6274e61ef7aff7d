"""How an api process and the agent of a node speak over TLS: messages, or one message each way and then bytes of a stream.

::

    message = length (4 bytes, most significant first), JSON object

    api process                                       node agent
    {"open": "calls", "protocol": 1} ───────────────► of the supervisor's connection, one for each of these
    ◄──────────────── {"hello": {...}}, {"beat": 1} every second, {"ready": true}
    request of the node protocol ───────────────────► answers and events of the node protocol follow
    ◄──────────────── {"ask": number, "line": ...}    a question of the egress process (egresswire/values.py)
    {"answered": number, "line": ...} ──────────────►
    {"open": "port" or "volume", ...} ──────────────► {"opened": true} and the stream, or {"error": ...}

The descriptors of the node protocol do not cross: the agent connects and carries bytes. Knows no method. Invariant: a message is bounded.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from cloister.errors import CloisterError, from_code
from cloister.nodewire.codec import dump_object
from cloister.nodewire.framing import MAX_MESSAGE_BYTES, ChannelClosedError, Message, ProtocolError

__all__ = ["BEAT_S", "HEAD_BYTES", "PROTOCOL", "FarChannel", "error_of", "packed", "raise_error", "unpacked"]

PROTOCOL = 1
"""Both sides must name it. A release that changes it speaks the former one too."""
BEAT_S = 1.0
HEAD_BYTES = 4


def packed(body: dict[str, Any]) -> bytes:
    """A message. Raises: ProtocolError: it is too long."""
    data = json.dumps(body, separators=(",", ":"), default=dump_object).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a message of {len(data)} bytes is longer than {MAX_MESSAGE_BYTES}")
    return len(data).to_bytes(HEAD_BYTES, "big") + data


def unpacked(data: bytes) -> dict[str, Any]:
    """The object of a message without its length. Raises: ProtocolError."""
    try:
        body = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a message is not JSON") from error
    if not isinstance(body, dict):
        raise ProtocolError("a message is not a JSON object")
    return body


def error_of(error: CloisterError) -> dict[str, Any]:
    """The message that tells of an error."""
    return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}


def raise_error(body: dict[str, Any]) -> None:
    """Raises: the CloisterError that a message tells of, if it does."""
    fault = body.get("error")
    if isinstance(fault, dict):
        raise from_code(str(fault.get("code")), str(fault.get("message")), fault.get("hint"))


class FarChannel:
    """Messages on a connection, in the form of :class:`~cloister.nodewire.framing.NodeChannel`; owns the connection.

    ``send`` may be called from many tasks, ``receive`` from one.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, most_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._reader = reader
        self._writer = writer
        self._most_bytes = most_bytes

    async def send(self, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message. Raises: ChannelClosedError; ProtocolError: it is too long, or has descriptors; nothing was sent."""
        if fds:
            raise ProtocolError("descriptors do not leave the machine")
        data = packed(body)
        if self._writer.is_closing():
            raise ChannelClosedError("the channel is closed")
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise ChannelClosedError(str(error)) from error

    async def receive(self) -> Message:
        """The next message. Raises: ChannelClosedError, ProtocolError."""
        try:
            size = int.from_bytes(await self._reader.readexactly(HEAD_BYTES), "big")
            if size > self._most_bytes:
                raise ProtocolError(f"a message of {size} bytes is longer than {self._most_bytes}")
            data = await self._reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            raise ChannelClosedError("the other side closed the channel") from error
        except ConnectionError:
            raise
        except OSError as error:
            raise ChannelClosedError(str(error)) from error
        return Message(unpacked(data), (), size)

    def close(self) -> None:
        """Close the connection at once. Tasks that wait in ``send`` or ``receive`` get ChannelClosedError."""
        transport = self._writer.transport
        if transport is not None:
            transport.abort()
