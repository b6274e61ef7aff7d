"""``https_ports``: programs that speak TLS themselves are reached by it, whatever their certificate is."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from framework.control_plane import ControlPlane
from framework.http import call
from framework.requests import ask, create, echo, to

pytestmark = pytest.mark.root
PORT = 8443


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's TLS with a certificate that no authority has signed, of another name."""
    directory: Path = tmp_path_factory.mktemp("tls")
    key, certificate = directory / "key", directory / "cert"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=other"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def _converse(request: web.Request) -> web.WebSocketResponse:
    response = web.WebSocketResponse()
    await response.prepare(request)
    async for message in response:
        await response.send_bytes(message.data)
    return response


def serving(plane: ControlPlane, context: ssl.SSLContext | None, **network: Any) -> str:
    """A sandbox whose port echoes, by TLS if a context is given."""
    sandbox_id: str = create(plane, network=network)["sandboxID"]
    sandbox = plane.node.find(sandbox_id)

    async def serve() -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/socket", _converse)
        app.router.add_route("*", "/{tail:.*}", echo)
        listener = await sandbox.make_socket(lambda: socket.create_server(("127.0.0.1", PORT)))
        runner = web.AppRunner(app, shutdown_timeout=0.0)
        await runner.setup()
        sandbox.stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, listener, ssl_context=context).start()

    plane.run(serve)
    return sandbox_id


def test_programs_that_speak_tls(control_plane: ControlPlane, self_signed: ssl.SSLContext) -> None:
    """Bodies of both directions pass unchanged, with the mask, on a connection that is used again, before and after a restart."""
    sandbox_id = serving(control_plane, self_signed, httpsPorts=[PORT], maskRequestHost="x:${PORT}")
    body = bytes(range(256)) * 8192
    for _ in range(3):
        seen = call(control_plane.url, "POST", "/a?b", body=body, headers=to(sandbox_id, PORT)).json()
        assert (seen["sha"], seen["target"]) == (hashlib.sha256(body).hexdigest(), "/a?b")
        assert ["Host", f"x:{PORT}"] in seen["headers"]
    assert control_plane.node.find(sandbox_id).dials == 1
    control_plane.restart_api()
    assert call(control_plane.url, "GET", "/", headers=to(sandbox_id, PORT)).status == 200


def test_websockets_by_tls(control_plane: ControlPlane, self_signed: ssl.SSLContext) -> None:
    """A WebSocket passes too, with a message that is larger than the buffers."""
    sandbox_id = serving(control_plane, self_signed, httpsPorts=[PORT])
    message = bytes(range(256)) * 8192

    async def converse() -> bytes:
        url, headers = f"{control_plane.url}/socket", to(sandbox_id, PORT)
        async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers, max_msg_size=0) as connection:
            await connection.send_bytes(message)
            return await connection.receive_bytes(timeout=20)

    assert asyncio.run(converse()) == message


def test_programs_that_do_not_speak_tls(control_plane: ControlPlane, self_signed: ssl.SSLContext) -> None:
    """A program on a port of the list that speaks plain HTTP is named as such, and one that is not there as closed."""
    sandbox_id = serving(control_plane, None, httpsPorts=[PORT, 9443])
    answer = call(control_plane.url, "GET", "/", headers=to(sandbox_id, PORT))
    assert answer.status == 502
    assert b"does not speak TLS" in answer.body
    assert b"port is not open" in call(control_plane.url, "GET", "/", headers=to(sandbox_id, 9443)).body
    other = serving(control_plane, self_signed)
    assert call(control_plane.url, "GET", "/", headers=to(other, PORT)).status in (400, 502)


def test_https_ports_need_the_traffic_token(control_plane: ControlPlane, self_signed: ssl.SSLContext) -> None:
    """The list opens no port: a sandbox without public traffic demands its token there as on other ports."""
    created = create(control_plane, network={"allowPublicTraffic": False, "httpsPorts": [PORT]})
    refused = call(control_plane.url, "GET", "/", headers=to(created["sandboxID"], PORT))
    assert refused.status == 403
    assert ask(control_plane, "GET", f"/sandboxes/{created['sandboxID']}").json()["network"]["httpsPorts"] == [PORT]
