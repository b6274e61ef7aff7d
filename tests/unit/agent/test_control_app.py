"""The envd-compatible port as far as it is built."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from cloister.agent.app import control_app
from cloister.agent.cgroup import Cgroup
from cloister.agent.init import AgentLimits, InitDocument, SandboxState
from cloister.agent.metrics import Metrics

TOKEN = "t" * 64
RIGHT = {"X-Access-Token": TOKEN}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[TestClient]:  # type: ignore[type-arg]
    """A client of a sandbox with a token, on cgroup v1."""
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("104857600\n", encoding="ascii")
    (tmp_path / "memory" / "memory.stat").write_text("cache 1\ntotal_cache 4096\n", encoding="ascii")
    state = SandboxState.from_document(InitDocument(sandbox_id="x", envs={"A": "1"}, access_token=TOKEN, limits=AgentLimits(mem_mib=512)))
    async with TestClient(TestServer(control_app(state, Metrics(Cgroup(tmp_path), state)))) as made:
        yield made


async def test_health_is_open(client: TestClient) -> None:  # type: ignore[type-arg]
    """Health answers 204 to anybody."""
    assert (await client.get("/health")).status == 204


@pytest.mark.parametrize("path", ["/metrics", "/envs", "/files", "/process.Process/List", "/nowhere"])
async def test_a_stranger_cannot_use_the_port(client: TestClient, path: str) -> None:  # type: ignore[type-arg]
    """Everything else wants the token, and says so in JSON."""
    for headers in ({}, {"X-Access-Token": "wrong"}):
        response = await client.get(path, headers=headers)
        assert response.status == 401
        assert (await response.json())["code"] == 401


async def test_metrics(client: TestClient) -> None:  # type: ignore[type-arg]
    """Metrics show what the cgroup says and leave out what it does not."""
    values = await (await client.get("/metrics", headers=RIGHT)).json()
    assert (values["mem_used"], values["mem_used_mib"], values["mem_cache"], values["mem_total"]) == (104857600, 100, 4096, 512 << 20)
    assert values["cpu_count"] == 2
    assert values["disk_total"] > values["disk_used"] > 0


async def test_init_changes_envs_and_token(client: TestClient) -> None:  # type: ignore[type-arg]
    """POST /init adds variables and replaces the token; it needs the token itself."""
    body = {"envVars": {"B": "2"}, "accessToken": "n" * 64}
    assert (await client.post("/init", json=body)).status == 401
    assert (await client.post("/init", json=body, headers=RIGHT)).status == 204
    assert (await client.get("/envs", headers=RIGHT)).status == 401
    assert await (await client.get("/envs", headers={"X-Access-Token": "n" * 64})).json() == {"A": "1", "B": "2"}


@pytest.mark.parametrize("body", ["nonsense", "[]", '{"envVars": 5}', '{"accessToken": 5}'])
async def test_bad_init_is_refused(client: TestClient, body: str) -> None:  # type: ignore[type-arg]
    """A body that is no init request is a 400 that says why."""
    response = await client.post("/init", data=body, headers=RIGHT)
    assert response.status == 400
    assert (await response.json())["message"]


async def test_unknown_paths_are_json(client: TestClient) -> None:  # type: ignore[type-arg]
    """A path that nobody knows is a 404 in JSON."""
    response = await client.get("/nowhere", headers=RIGHT)
    assert response.status == 404
    assert json.loads(await response.text())["code"] == 404
