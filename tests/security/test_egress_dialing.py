"""Attacks on the moment at which the egress process opens a connection to the outside."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address

import pytest

from cloister.egress.connection import Connection
from cloister.egress.dialing import connect
from cloister.egress.streams import ByteStream
from cloister.egress.verdicts import Judge
from cloister.model.network import PUBLIC_EGRESS
from cloister.network.limits import FairBound


async def test_no_connection_can_begin_after_it_was_cut() -> None:
    """One that is cut at the last moment, when the task that would open it is due already, opens nothing."""
    inside, outside = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener, outside:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        connection = Connection("sandbox", "10.0.0.1", ("127.0.0.1", port), ByteStream(inside), lambda: Judge(PUBLIC_EGRESS))
        dialling = asyncio.create_task(connect([IPv4Address("127.0.0.1")], port, connection, FairBound(1, 1)))
        await asyncio.sleep(0)  # it has made its task, which is next
        connection.cut()
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        with pytest.raises(BlockingIOError):
            listener.accept()
