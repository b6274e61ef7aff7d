"""The envd-compatible port as far as it is built."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from cloister.agent.app import Handler, control_app
from cloister.agent.cgroup import Cgroup
from cloister.agent.metrics import Metrics
from cloister.agent.state import AgentState
from cloister.protocol.connect import EnvelopeParser, encode_envelope
from cloister.protocol.init_document import AgentLimits, InitDocument
from cloister.protocol.pausing import Standstill

TOKEN = "t" * 64
RIGHT = {"X-Access-Token": TOKEN}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[TestClient]:  # type: ignore[type-arg]  # its parameters say nothing here
    """A client of a sandbox with a token, on cgroup v1."""
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("104857600\n", encoding="ascii")
    (tmp_path / "memory" / "memory.stat").write_text("cache 1\ntotal_cache 4096\n", encoding="ascii")
    state = AgentState.from_document(InitDocument(sandbox_id="x", envs={"A": "1"}, access_token=TOKEN, limits=AgentLimits(mem_mib=512)))
    app = control_app(state, Metrics(Cgroup(tmp_path), state))
    app[SLOW], app[ENDED] = [], []
    app.middlewares.insert(0, end_slowly)
    async with TestClient(TestServer(app)) as made:
        yield made


SLOW: web.AppKey[list[str]] = web.AppKey("slow", list)
"""Paths whose calls end late."""
ENDED: web.AppKey[list[str]] = web.AppKey("ended", list)
"""Those that have ended."""


@web.middleware
async def end_slowly(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Ends some calls many turns of the loop late, as on a busy machine."""
    try:
        return await handler(request)
    finally:
        if request.path in request.app[SLOW]:
            await asyncio.sleep(0.1)
            request.app[ENDED].append(request.path)


async def test_health_is_open(client: TestClient) -> None:  # type: ignore[type-arg]  # its parameters say nothing here
    """Health answers 204 to every caller."""
    assert (await client.get("/health")).status == 204


@pytest.mark.parametrize("path", ["/metrics", "/envs", "/files", "/process.Process/List", "/nowhere"])
async def test_a_stranger_cannot_use_the_port(client: TestClient, path: str) -> None:  # type: ignore[type-arg]  # its parameters say nothing here
    """Everything else wants the token, and says so in JSON."""
    for headers in ({}, {"X-Access-Token": "wrong"}):
        response = await client.get(path, headers=headers)
        assert response.status == 401
        assert (await response.json())["code"] == 401


async def test_metrics(client: TestClient) -> None:  # type: ignore[type-arg]  # its parameters say nothing here
    """Metrics show what the cgroup says and leave out what it does not."""
    values = await (await client.get("/metrics", headers=RIGHT)).json()
    assert (values["mem_used"], values["mem_used_mib"], values["mem_cache"], values["mem_total"]) == (104857600, 100, 4096, 512 << 20)
    assert values["cpu_count"] == 2
    assert values["disk_total"] > values["disk_used"] > 0


async def test_init_changes_envs_and_token(client: TestClient) -> None:  # type: ignore[type-arg]  # its parameters say nothing here
    """POST /init adds variables and replaces the token; it needs the token itself."""
    body = {"envVars": {"B": "2"}, "accessToken": "n" * 64}
    assert (await client.post("/init", json=body)).status == 401
    assert (await client.post("/init", json=body, headers=RIGHT)).status == 204
    assert (await client.get("/envs", headers=RIGHT)).status == 401
    assert await (await client.get("/envs", headers={"X-Access-Token": "n" * 64})).json() == {"A": "1", "B": "2"}


@pytest.mark.parametrize("body", ["nonsense", "[]", '{"envVars": 5}', '{"accessToken": 5}'])
async def test_bad_init_is_refused(client: TestClient, body: str) -> None:  # type: ignore[type-arg]  # its parameters say nothing here
    """A body that is no init request is a 400 that says why."""
    response = await client.post("/init", data=body, headers=RIGHT)
    assert response.status == 400
    assert (await response.json())["message"]


async def test_unknown_paths_are_json(client: TestClient) -> None:  # type: ignore[type-arg]  # its parameters say nothing here
    """An unknown path is a 404 in JSON."""
    response = await client.get("/nowhere", headers=RIGHT)
    assert response.status == 404
    assert json.loads(await response.text())["code"] == 404


@pytest.mark.parametrize("kind", [Standstill.MEMORY, Standstill.FILES])
async def test_the_end_of_a_stream_says_what_becomes_of_its_process(client: TestClient, tmp_path: Path, kind: Standstill) -> None:  # type: ignore[type-arg]  # its parameters say nothing here
    """At a pause the last frame is a whole one, with an error that names the sandbox; a capture ends no stream."""
    user = b64encode(f"{pwd.getpwuid(os.getuid()).pw_name}:".encode()).decode()
    headers = {**RIGHT, "Content-Type": "application/connect+json", "Authorization": f"Basic {user}"}
    body = {"process": {"cmd": "/bin/sh", "args": ["-c", "echo one; exec sleep 60"], "cwd": str(tmp_path)}}
    async with client.post("/process.Process/Start", data=encode_envelope(json.dumps(body).encode()), headers=headers) as stream:
        got = b""
        for announced in (Standstill.COPY, Standstill.OVER, kind):
            while b"data" not in got:
                got += await stream.content.readany()
            assert not stream.content.is_eof()
            assert (await client.post("/pausing", data=announced.to_json(), headers=RIGHT)).status == 204
        got += await stream.read()
    *_, last = EnvelopeParser(1 << 20).feed(got)
    error = json.loads(last.data)["error"]
    assert (last.is_end, error["code"]) == (True, "unavailable")
    assert error["message"].startswith("sandbox x is being paused: ")
    assert ("the process ends" in error["message"]) is (kind is Standstill.FILES)


async def test_a_pause_waits_for_the_ends_of_streams(client: TestClient) -> None:  # type: ignore[type-arg]  # its parameters say nothing here
    """When the announcement is answered, which lets the server end the agent, no stream lacks its end."""
    app, path = client.server.app, "/process.Process/Start"  # type: ignore[attr-defined]  # it is a TestServer
    app[SLOW].append(path)
    user = b64encode(f"{pwd.getpwuid(os.getuid()).pw_name}:".encode()).decode()
    headers = {**RIGHT, "Content-Type": "application/connect+json", "Authorization": f"Basic {user}"}
    body = {"process": {"cmd": "/bin/sh", "args": ["-c", "echo one; exec sleep 60"], "cwd": "/"}}
    async with client.post(path, data=encode_envelope(json.dumps(body).encode()), headers=headers) as stream:
        assert await stream.content.readany()
        assert (await client.post("/pausing", data=Standstill.FILES.to_json(), headers=RIGHT)).status == 204
        assert app[ENDED] == [path]


async def test_kernels_are_ordered_by_the_server_alone(client: TestClient) -> None:  # type: ignore[type-arg]  # as below
    """The order needs the token, and is read with care."""
    assert (await client.post("/kernels", data=b'{"languages": []}')).status == 401
    assert (await client.post("/kernels", data=b'{"languages": []}', headers=RIGHT)).status == 204
    for body in (b"", b"[]", b'{"languages": "r"}', b'{"languages": [1]}'):
        assert (await client.post("/kernels", data=body, headers=RIGHT)).status == 400


async def test_a_pause_is_announced(client: TestClient, tmp_path: Path) -> None:  # type: ignore[type-arg]  # its parameters say nothing here
    """The announcement needs the token, and ends the streams that follow processes; a client that comes back misses nothing."""
    user = b64encode(f"{pwd.getpwuid(os.getuid()).pw_name}:".encode()).decode()
    headers = {**RIGHT, "Content-Type": "application/connect+json", "Authorization": f"Basic {user}"}
    script = "echo one; until test -e go; do sleep 0.01; done; echo two"
    body = {"process": {"cmd": "/bin/sh", "args": ["-c", script], "cwd": str(tmp_path)}, "tag": "t"}
    assert (await client.post("/pausing")).status == 401
    async with client.post("/process.Process/Start", data=encode_envelope(json.dumps(body).encode()), headers=headers) as stream:
        while b"data" not in (part := await stream.content.readany()):
            assert part
        assert (await client.post("/pausing", headers=RIGHT)).status == 204
        ending = await stream.read()
    assert b"unavailable" in ending
    assert b"is being paused" in ending
    (tmp_path / "go").touch()
    again = encode_envelope(json.dumps({"process": {"tag": "t"}}).encode())
    async with client.post("/process.Process/Connect", data=again, headers=headers) as stream:
        seen = await stream.read()
    assert b64encode(b"two\n") in seen
    assert b64encode(b"one\n") not in seen
    assert b"exit status 0" in seen
