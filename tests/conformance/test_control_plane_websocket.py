"""WebSockets through the ingress."""

from __future__ import annotations

import asyncio
import http.client
import json

import pytest
from aiohttp import web
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from framework.control_plane import ControlPlane
from framework.requests import PORT, ask, echo, sandbox, to

pytestmark = pytest.mark.root


async def _socket(request: web.Request) -> web.WebSocketResponse:
    server = web.WebSocketResponse(protocols=("chat.v2",), max_msg_size=0)
    await server.prepare(request)
    async for message in server:
        if message.data == "close":
            await server.close(code=4321, message=b"because")
        elif message.type is web.WSMsgType.BINARY:
            await server.send_bytes(message.data[::-1])
        else:
            await server.send_str(message.data.upper())
    return server


async def test_websockets(control_plane: ControlPlane) -> None:
    """Text, large binary messages, the subprotocol and the close code pass through a WebSocket both ways."""
    sandbox_id, inside = sandbox(control_plane)
    control_plane.run(lambda: inside.serve(PORT, _socket))
    url = control_plane.url.replace("http", "ws") + "/ws?x=1"
    async with connect(url, additional_headers=to(sandbox_id), subprotocols=["chat.v1", "chat.v2"], max_size=None) as client:  # type: ignore[list-item]  # a plain string will do
        assert client.subprotocol == "chat.v2"
        await client.send("hello")
        assert await client.recv() == "HELLO"
        big = bytes(range(256)) * 20_000
        await client.send(big)
        assert await client.recv() == big[::-1]
        await client.send("close")
        with pytest.raises(ConnectionClosed) as caught:
            await client.recv()
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4321, "because")


async def test_kill_breaks_a_websocket(control_plane: ControlPlane) -> None:
    """Killing the sandbox breaks its WebSockets at once."""
    sandbox_id, inside = sandbox(control_plane)
    control_plane.run(lambda: inside.serve(PORT, _socket))
    async with connect(control_plane.url.replace("http", "ws"), additional_headers=to(sandbox_id)) as client:
        await client.send("a")
        await client.recv()
        await asyncio.to_thread(ask, control_plane, "DELETE", f"/sandboxes/{sandbox_id}")
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(client.recv(), 2)


def test_a_refused_upgrade_is_an_ordinary_answer(control_plane: ControlPlane) -> None:
    """A program that does not take the upgrade answers as to any request, and the connection stays the ingress's."""
    sandbox_id, inside = sandbox(control_plane)
    control_plane.run(lambda: inside.serve(PORT, echo))
    connection = http.client.HTTPConnection("127.0.0.1", int(control_plane.url.rpartition(":")[2]), timeout=10)
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    connection.request("GET", "/", headers={**to(sandbox_id), **upgrade})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["target"]) == (200, "/")
    connection.close()
