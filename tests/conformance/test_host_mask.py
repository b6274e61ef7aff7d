"""``mask_request_host``: the Host that programs in a sandbox see, whatever the client's is."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cloister.errors import InvalidRequestError
from cloister.model.network import NetworkOptions, check_host_mask
from framework.control_plane import ControlPlane
from framework.http import call
from framework.requests import PORT, ask, create, echo, to

pytestmark = pytest.mark.root
MASK = "localhost:${PORT}"


def _masked(plane: ControlPlane, mask: str = MASK) -> str:
    """A sandbox with the mask, whose port echoes."""
    sandbox_id: str = create(plane, network={"maskRequestHost": mask})["sandboxID"]
    plane.run(lambda: plane.node.find(sandbox_id).serve(PORT, echo))
    return sandbox_id


def _seen(plane: ControlPlane, sandbox_id: str, **headers: str) -> dict[str, list[str]]:
    """The headers that the program saw, by name."""
    found: dict[str, list[str]] = {}
    for name, value in call(plane.url, "GET", "/", headers={**to(sandbox_id), **headers}).json()["headers"]:
        found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize(
    ("mask", "shown"),
    [(MASK, f"localhost:{PORT}"), ("localhost", "localhost"), ("a-${PORT}.b.test:80", f"a-{PORT}.b.test:80"), ("[::1]:1", "[::1]:1")],
)
def test_programs_see_the_mask(control_plane: ControlPlane, mask: str, shown: str) -> None:
    """The program sees one Host, the mask with its port in it, and the client's host in X-Forwarded-Host."""
    seen = _seen(control_plane, _masked(control_plane, mask), Host="client.test:99")
    assert (seen["Host"], seen["X-Forwarded-Host"]) == ([shown], ["client.test:99"])


def test_websockets_see_the_mask(control_plane: ControlPlane) -> None:
    """The request that opens a WebSocket has the mask too."""
    sandbox_id = create(control_plane, network={"maskRequestHost": MASK})["sandboxID"]

    async def tell_host(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        await response.send_str(request.headers["Host"])
        return response

    async def ask_host() -> Any:
        async with aiohttp.ClientSession() as session, session.ws_connect(control_plane.url, headers=to(sandbox_id)) as connection:
            return await connection.receive_str(timeout=10)

    control_plane.run(lambda: control_plane.node.find(sandbox_id).serve(PORT, tell_host))
    assert asyncio.run(ask_host()) == f"localhost:{PORT}"


def test_the_agent_sees_no_mask(control_plane: ControlPlane) -> None:
    """The agent's own port is reached as without a mask."""
    sandbox_id = _masked(control_plane)
    hosts: list[str] = []

    async def agent(request: web.Request) -> web.Response:
        hosts.append(request.headers["Host"])
        return web.Response()

    control_plane.node.find(sandbox_id).agent = agent
    call(control_plane.url, "GET", "/health", headers={**to(sandbox_id, 49983), "Host": "client.test"})
    assert hosts == ["client.test"]


def test_the_mask_stays(control_plane: ControlPlane) -> None:
    """It is told with the sandbox, and holds after a connect, after the api process began anew, and when its store was lost."""
    sandbox_id = _masked(control_plane)
    ask(control_plane, "POST", f"/v2/sandboxes/{sandbox_id}/connect", {"timeout": 100})
    for is_lost in (False, True):
        if is_lost:
            _forget(control_plane, sandbox_id)
        control_plane.restart_api()
        detail = ask(control_plane, "GET", f"/sandboxes/{sandbox_id}").json()
        assert detail["network"]["maskRequestHost"] == MASK, is_lost
        assert _seen(control_plane, sandbox_id)["Host"] == [f"localhost:{PORT}"]
    assert "network" not in ask(control_plane, "GET", f"/sandboxes/{create(control_plane)['sandboxID']}").json()


def _forget(plane: ControlPlane, sandbox_id: str) -> None:
    """Have the store lose the sandbox, so that the node's record of it is taken up."""
    with contextlib.closing(sqlite3.connect(plane.settings.data_dir / "api" / "cloister.db")) as connection, connection:
        assert connection.execute("DELETE FROM sandboxes WHERE sandbox_id = ?", (sandbox_id,)).rowcount == 1


def test_options_of_another_release_are_read() -> None:
    """This release reads the fields that it knows from data of an older or newer release."""
    assert NetworkOptions.from_json({}) == NetworkOptions()
    assert NetworkOptions.from_json({"host_mask": "h", "of_tomorrow": 1}) == NetworkOptions(host_mask="h")
    assert NetworkOptions.from_json(NetworkOptions(host_mask=MASK).to_json()).host_mask == MASK
    with pytest.raises(InvalidRequestError):
        check_host_mask("a b")
