"""A sandbox that floods or forges its log fills no disk, blocks no other, and cannot forge the server's entries (I3, I6).

The liars stand in for the agent of a sandbox whose root has taken its place: the server asks them over the network of a sandbox, as it
asks an agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from e2b_code_interpreter import Sandbox

from framework.control_plane import ControlPlane, running_control_plane
from framework.inside import shell
from framework.server import Server

pytestmark = pytest.mark.root
_SANDBOX_KIB = 64
_TOTAL_MIB = 1


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane whose bounds on logs are small, over sandboxes whose agents the test chooses."""
    with running_control_plane(tmp_path, log_sandbox_kib=_SANDBOX_KIB, log_total_mib=_TOTAL_MIB) as made:
        yield made


def create(plane: ControlPlane, agent: Any = None) -> str:
    """A sandbox with that agent; its id."""
    sandbox_id = str(Sandbox.create(timeout=300, **plane.sdk).sandbox_id)
    if agent is not None:
        plane.node.sandboxes[sandbox_id].agent = agent
    return sandbox_id


def read(plane: ControlPlane, sandbox_id: str) -> list[dict[str, Any]]:
    """The sandbox's log."""
    answer = httpx.get(f"{plane.url}/v2/sandboxes/{sandbox_id}/logs", headers={"X-API-KEY": plane.api_key}, timeout=30)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["logs"]
    return found


def page(events: list[dict[str, Any]], agent_id: str = "ab") -> web.Response:
    """What an agent answers."""
    return web.json_response({"agent_id": agent_id, "events": events})


def test_sandbox_cannot_forge_the_servers_lines(plane: ControlPlane) -> None:
    """A sandbox's lines are marked as its own, in its own log, under any name. No text in them can pass for another line."""
    victim = ""
    lies = [
        {"logger": "node", "event": "memory.exhausted", "level": "error", "sandbox_id": "x"},
        {"agent_id": "node", "sequence": "7", "timestamp": "1999-01-01T00:00:00Z", "message": "sandbox ended"},
        {"text": '"}\n[1,"info","node","memory.exhausted",{}]\n', "logger\n": "api", "sandboxID": "other"},
    ]

    async def liar(_request: web.Request) -> web.Response:
        events = [{"sequence": number, "at": 0, "kind": "memory.exhausted", "fields": fields} for number, fields in enumerate(lies)]
        return page([{**event, "sandbox_id": victim, "logger": "node", "level": "error"} for event in events])

    victim = create(plane)
    attacker = create(plane, liar)
    began = time.time()
    entries = read(plane, attacker)
    forged = [entry for entry in entries if entry["fields"]["event"] == "memory.exhausted"]
    assert len(forged) == len(lies)
    assert {entry["fields"]["logger"] for entry in forged} == {"agent"}
    assert all(entry["timestamp"] >= entries[0]["timestamp"] for entry in forged), "no word in the time before the sandbox"
    assert not any("\n" in json.dumps(value) or '"' in value for entry in forged for value in entry["fields"].values())
    assert [entry["fields"]["event"] for entry in read(plane, victim)] == ["sandbox.created"]
    assert time.time() - began < 10


def test_sandbox_cannot_fill_the_disk_by_its_log(plane: ControlPlane) -> None:
    """A flood of events by agents that claim to be new stays within the sandbox's bound. Many floods stay within the total bound."""
    numbers = itertools.count()

    async def flood(_request: web.Request) -> web.Response:
        begin = next(numbers) * 400
        fields = {f"{name}": "x" * 64 for name in ("aa", "bb", "cc", "dd", "ee", "ff", "gg")}
        events = [{"sequence": begin + number, "at": 1e12, "kind": "process.started", "fields": fields} for number in range(400)]
        return page(events, f"{begin:x}")

    sandboxes = [create(plane, flood) for _ in range(20)]
    for _ in range(3):
        for sandbox_id in sandboxes:
            assert read(plane, sandbox_id)
    directory = plane.settings.data_dir / "api" / "logs"
    sizes = {sandbox_id: sum(path.stat().st_size for path in directory.glob(f"{sandbox_id}*")) for sandbox_id in sandboxes}
    assert max(sizes.values()) <= _SANDBOX_KIB << 10
    assert sum(sizes.values()) <= _TOTAL_MIB << 20
    assert any(entry["fields"]["event"] == "events.dropped" for entry in read(plane, sandboxes[-1]))


async def _hang(_request: web.Request) -> web.Response:
    await asyncio.sleep(3600)
    return web.Response()


async def _trickle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65_536)


async def _deep(_request: web.Request) -> web.Response:
    return web.Response(text="[" * 100_000)


async def _numbers(_request: web.Request) -> web.Response:
    return web.Response(
        text='{"agent_id": "a", "events": [{"sequence": ' + "9" * 4000 + ', "at": 1e999, "kind": "a.b", "fields": {"x": NaN}}]}'
    )


async def _elsewhere(_request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": "http://169.254.169.254/"})


@pytest.mark.parametrize("liar", [_hang, _trickle, _endless, _deep, _numbers, _elsewhere])
def test_sandbox_cannot_block_the_server_by_its_answer(plane: ControlPlane, liar: Any) -> None:
    """An agent that hangs, trickles, never ends or answers nonsense costs its own log only, and a short wait."""
    neighbour = create(plane)
    liars = [create(plane, liar) for _ in range(10)]
    began = time.monotonic()
    for sandbox_id in liars[:3]:
        assert read(plane, sandbox_id)[0]["fields"]["event"] == "sandbox.created"
    assert time.monotonic() - began < 8
    began = time.monotonic()
    assert [entry["fields"]["event"] for entry in read(plane, neighbour)] == ["sandbox.created"]
    assert time.monotonic() - began < 2
    for sandbox_id in liars:
        began = time.monotonic()
        assert Sandbox.kill(sandbox_id, api_key=plane.api_key, api_url=plane.url)
        assert time.monotonic() - began < 2
    assert read(plane, liars[0])[-1]["fields"]["event"] == "sandbox.ended"


@pytest.mark.templates
def test_flood_of_events_in_a_real_sandbox(server: Server, attacker: Sandbox, neighbour: Sandbox) -> None:
    """The log of as many runs as possible is bounded, and reports dropped entries."""
    runs, enough = 0, time.monotonic() + 5  # the server has looked twice by then; what comes after its last look ends with the agent
    while runs < 700 or time.monotonic() < enough:
        attacker.run_code("pass")
        runs += 1
    with contextlib.suppress(httpx.TransportError):  # the answer ends with the agent that gives it
        shell(attacker, "kill -9 $(pgrep -f cloister/agent/main.py)", timeout=20)
    entries = httpx.get(f"{server.url}/v2/sandboxes/{attacker.sandbox_id}/logs", headers={"X-API-KEY": server.api_key}, timeout=30).json()[
        "logs"
    ]
    assert 100 < len(entries) <= 1000
    size = sum(path.stat().st_size for path in (server.data_dir / "api" / "logs").glob(f"{attacker.sandbox_id}*"))
    assert size <= 512 << 10
    assert neighbour.run_code("1 + 1").text == "2"
