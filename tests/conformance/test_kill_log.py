"""A sandbox that is killed while streams to it are open is no fault of the server: its log has a line for each, and no traceback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from framework.control_plane import ControlPlane
from framework.requests import PORT, ask, sandbox, to

pytestmark = pytest.mark.root


async def _stream(request: web.Request) -> web.StreamResponse:
    """A WebSocket, an answer that has begun, or one that has not, by the path; none of them ends by itself."""
    if request.path == "/socket":
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("begun")
        await asyncio.sleep(30)
    response = web.StreamResponse()
    if request.path == "/begun":
        await response.prepare(request)
        await response.write(b"begun")
    if request.path == "/upload":
        await response.prepare(request)
        await response.write(b"begun")
        await request.read()
    await asyncio.sleep(30)
    return response


async def _open_all(plane: ControlPlane, sandbox_id: str, begun: asyncio.Event) -> list[object]:
    """Open each kind, tell that they have begun, and wait for their ends."""
    headers = to(sandbox_id)

    async def slowly() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(plane.url + "/socket", headers=headers)
        await socket.receive_str(timeout=10)
        answers = [
            await session.get(plane.url + "/begun", headers=headers),
            await session.post(plane.url + "/upload", headers=headers, data=slowly()),
        ]
        for answer in answers:
            assert await answer.content.readexactly(5) == b"begun"
        silent = asyncio.create_task(session.get(plane.url + "/silent", headers=headers))
        await asyncio.sleep(0)
        begun.set()
        ends: list[object] = [(await socket.receive(timeout=20)).type]
        for answer in answers:
            try:
                ends.append(await answer.content.read())
            except aiohttp.ClientError as error:
                ends.append(type(error).__name__)
        ends.append((await silent).status)
        return ends


def test_kill_with_open_streams(control_plane: ControlPlane, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """WebSockets, streams in both directions and a silent request end with the sandbox; the log tells it without a traceback."""
    sandbox_id, inside = sandbox(control_plane)
    control_plane.run(lambda: inside.serve(PORT, _stream))

    async def all_of_it() -> list[object]:
        begun = asyncio.Event()
        opened = asyncio.create_task(_open_all(control_plane, sandbox_id, begun))
        await asyncio.wait_for(begun.wait(), 20)
        await asyncio.to_thread(ask, control_plane, "DELETE", f"/sandboxes/{sandbox_id}")
        return await asyncio.wait_for(opened, 20)

    ends = asyncio.run(all_of_it())
    assert ends[-1] == 502
    assert b"" not in ends
    said = "".join(capfd.readouterr()) + caplog.text
    assert "Traceback" not in said, said
    assert "[error" not in said, said
    assert said.count("traffic.completed") >= 4
