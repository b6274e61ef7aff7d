"""Requests to paused sandboxes: what wakes them, what does not, and what each is answered."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientError, ClientPayloadError, web

from cloister.errors import (
    AgentSilentAtPauseError,
    ConflictError,
    InternalError,
    NoCapacityError,
    NodeUnreachableError,
    QuotaExceededError,
    SandboxNotFoundError,
)
from cloister.protocol.agent import AGENT_PORT
from cloister.proxy.waking import Wakes
from framework.ingress_lab import ACCESS, ID, IngressLab, ingress_lab, to_port
from framework.waiting import turns


async def _echo(request: web.Request) -> web.Response:
    body = await request.read()
    return web.json_response({"path": request.raw_path, "sha": hashlib.sha256(body).hexdigest(), "names": sorted(request.headers)})


@pytest.fixture
async def lab() -> AsyncIterator[IngressLab]:
    """An ingress whose sandboxes echo."""
    async with ingress_lab(_echo) as made:
        yield made


async def test_one_start_answers_all(lab: IngressLab) -> None:
    """Requests that come while a sandbox wakes share one start, and each gets its own answer, with its own body."""
    lab.run()
    lab.pause()
    lab.may_wake.clear()
    bodies = [bytes([number]) * (number * 40_000) for number in range(8)]  # up to what is too large to be kept as a whole
    waiting = [asyncio.create_task(lab.client.post(f"/{number}", data=body, headers=to_port())) for number, body in enumerate(bodies)]
    await turns()
    assert (lab.wakes, [task.done() for task in waiting]) == (1, [False] * 8)
    lab.may_wake.set()
    for number, answer in enumerate(await asyncio.gather(*waiting)):
        seen = await answer.json()
        assert (seen["path"], seen["sha"]) == (f"/{number}", hashlib.sha256(bodies[number]).hexdigest())
    assert lab.wakes == 1


async def test_a_client_that_goes_away_leaves_the_start_to_others(lab: IngressLab) -> None:
    """The start goes on when the request that began it is given up."""
    lab.run()
    lab.pause()
    lab.may_wake.clear()
    first = asyncio.create_task(lab.client.get("/first", headers=to_port()))
    await turns()
    second = asyncio.create_task(lab.client.get("/second", headers=to_port()))
    await turns()
    first.cancel()
    await turns()
    lab.may_wake.set()
    assert (await (await second).json())["path"] == "/second"
    assert lab.wakes == 1


async def test_websockets_wake(lab: IngressLab) -> None:
    """A WebSocket passes through after its sandbox has woken."""

    async def talk(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data.upper())
        return socket

    async with ingress_lab(talk) as talking:
        talking.run()
        talking.pause()
        async with talking.client.ws_connect("/", headers=to_port()) as socket:
            await socket.send_str("hello")
            assert await socket.receive_str() == "HELLO"
        assert talking.wakes == 1


async def test_without_auto_resume(lab: IngressLab) -> None:
    """One answer: 502 in the published words, with a reason that says how to resume it, for all who would reach it if it ran."""
    lab.run(access=ACCESS)
    lab.pause(wakes=False)
    for headers in (to_port(), to_port(AGENT_PORT, access=ACCESS)):
        answer = await lab.client.get("/health", headers=headers)
        assert answer.status == 502
        assert await answer.json() == {
            "sandboxId": ID,
            "message": "The sandbox was not found",
            "reason": "is paused: resume it",
            "code": 502,
        }
    page = await lab.client.get("/", headers=to_port() | {"Accept": "text/html", "User-Agent": "Mozilla/5.0"})
    assert page.content_type == "text/html"
    assert "Sandbox Not Found" in await page.text()
    assert lab.wakes == 0


async def test_a_start_is_tried_again_later() -> None:
    """The error of a failed start is the answer for a time, then the next request tries again."""
    failing, calls = True, 0

    class Flaky:
        async def wake(self, sandbox_id: str) -> None:
            nonlocal calls
            calls += 1
            if failing:
                raise QuotaExceededError(sandbox_id)

    wakes = Wakes(calming_s=0.0)
    wakes.waker = Flaky()
    with pytest.raises(QuotaExceededError):
        await wakes.wake(ID)
    failing = False
    await wakes.wake(ID)
    assert calls == 2


async def test_a_request_does_not_wait_for_ever() -> None:
    """A start that does not end is 409 to its requests, and is not begun again."""
    calls = 0

    class Slow:
        async def wake(self, _sandbox_id: str) -> None:
            nonlocal calls
            calls += 1
            await asyncio.Event().wait()

    wakes = Wakes(wait_s=0.01)
    wakes.waker = Slow()
    for _ in range(3):
        with pytest.raises(ConflictError, match="within"):
            await wakes.wake(ID)
    assert calls == 1
    await wakes.close()


async def test_a_request_that_races_with_a_pause(lab: IngressLab) -> None:
    """A request that finds its sandbox just paused by its node wakes it, and is forwarded once, with its whole body."""
    for size in (10, 1 << 20):
        lab.run()
        lab.ingress.connector.drop(ID)
        lab.pause_at_dial = lab.pause
        answer = await lab.client.post("/x", data=b"z" * size, headers=to_port())
        assert (await answer.json())["sha"] == hashlib.sha256(b"z" * size).hexdigest()
    assert lab.wakes == 2
    lab.ingress.connector.drop(ID)
    lab.pause_at_dial = lambda: lab.pause(wakes=False)
    answer = await lab.client.post("/x", data=b"z", headers=to_port())
    assert (answer.status, (await answer.json())["reason"]) == (502, "is paused: resume it")


@pytest.mark.parametrize(
    ("wakes", "reason"), [(False, "is paused: resume it"), (True, "was paused during this request; the next one wakes it")]
)
async def test_a_pause_ends_open_requests(wakes: bool, reason: str) -> None:
    """A stream gets all that its program had sent, then breaks; a request without an answer is told that its sandbox is paused."""
    sent = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path == "/silent":
            await asyncio.Event().wait()
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(200):
            await response.write(b"%1000d\n" % number)
        sent.set()
        await asyncio.Event().wait()
        return response

    async with ingress_lab(handle) as lab:
        lab.run()
        silent = asyncio.create_task(lab.client.get("/silent", headers=to_port()))
        stream = await lab.client.get("/stream", headers=to_port())
        await sent.wait()
        lab.pause(wakes=wakes)
        got = b""
        with pytest.raises((ClientPayloadError, ClientError, ConnectionError)):  # noqa: PT012 - the error comes after the last line
            async for part in stream.content.iter_any():
                got += part
        assert got.splitlines()[-1].strip() == b"199"
        answer = await silent
        assert (answer.status, (await answer.json())["reason"]) == (502, reason)


async def test_a_short_pause_breaks_no_stream() -> None:
    """A sandbox that runs again before its buffers are empty keeps its connections."""
    go_on = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one\n")
        await go_on.wait()
        await response.write(b"two\n")
        return response

    async with ingress_lab(handle) as lab:
        route = lab.run()
        stream = await lab.client.get("/", headers=to_port())
        lab.pause()
        lab.routes[ID] = route
        await asyncio.sleep(0.15)  # longer than the requests to a paused sandbox go on
        go_on.set()
        assert await stream.read() == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (QuotaExceededError("the team has 3 live sandboxes"), 429, "its team has reached a limit"),
        (NoCapacityError("no memory"), 503, "no capacity"),
        (NodeUnreachableError("no node"), 503, "no capacity"),
        (ConflictError("it takes long"), 409, "in time"),
        (AgentSilentAtPauseError("its agent was dead"), 502, "The sandbox was not found"),
        (InternalError("its image is damaged"), 502, "The sandbox was not found"),
        (SandboxNotFoundError("gone"), 502, "The sandbox was not found"),
    ],
)
async def test_a_start_that_fails(lab: IngressLab, fault: Any, status: int, words: str) -> None:
    """Each error of a start has its status, and the answer has the SDKs' words or the reason."""
    lab.run()
    lab.pause()
    lab.wake_fault = fault
    answer = await lab.client.get("/", headers=to_port())
    assert answer.status == status
    assert words in (await answer.json())["message"]
