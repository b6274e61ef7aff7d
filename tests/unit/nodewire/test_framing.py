"""The framing of the node protocol on a socket pair."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from cloister.nodewire.framing import MAX_PIECE_BYTES, ChannelClosedError, NodeChannel, ProtocolError


async def test_channel_bounds_messages_and_ends() -> None:
    """A message is cut into packets that fit and put together again; the end of the peer is told."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one, two = NodeChannel(left), NodeChannel(right)
    body = {"x": "y" * (3 * MAX_PIECE_BYTES)}
    sending = asyncio.create_task(one.send(body))
    assert (await two.receive()).body == body
    await sending
    with pytest.raises(ProtocolError):
        await one.send({"x": "y" * (33 << 20)})
    one.close()
    with pytest.raises(ChannelClosedError):
        await two.receive()
    two.close()


async def test_descriptors_that_are_not_taken_are_closed() -> None:
    """A channel that takes no descriptors reports broken framing, and none of them stays open."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sender, receiver = NodeChannel(left), NodeChannel(right, takes_fds=False)
    reader, writer = os.pipe()
    await sender.send({"a": 1}, [reader])
    os.close(reader)
    with pytest.raises(ProtocolError):
        await receiver.receive()
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)
    sender.close()
    receiver.close()
