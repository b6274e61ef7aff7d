"""Traffic to paused sandboxes by clients without their tokens, and floods. It wakes none, learns of none, and costs little."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from cloister.errors import NoCapacityError
from cloister.protocol.agent import AGENT_PORT, INTERPRETER_PORT
from cloister.protocol.signature import FileSignature
from framework.ingress_lab import ACCESS, ID, PORT, TRAFFIC, IngressLab, ingress_lab, to_port
from framework.waiting import until


async def _greet(_request: web.Request) -> web.Response:
    return web.Response(text="hello")


@pytest.fixture
async def lab() -> AsyncIterator[IngressLab]:
    """An ingress whose sandboxes greet."""
    async with ingress_lab(_greet) as made:
        yield made


@pytest.mark.parametrize("tokens", [{}, {"traffic": "wrong"}, {"access": ACCESS}])
async def test_stranger_cannot_wake_a_port(lab: IngressLab, tokens: dict[str, str]) -> None:
    """Where ports are not public, a request without their token is 403 and wakes nothing."""
    lab.run(access=ACCESS, traffic=TRAFFIC)
    lab.pause()
    answer = await lab.client.get("/", headers=to_port(PORT, tokens))
    assert (answer.status, lab.wakes) == (403, 0)
    assert (await lab.client.get("/", headers=to_port(traffic=TRAFFIC))).status == 200


@pytest.mark.parametrize("path", ["/health", "/files?path=/x", "/process.Process/List", "/nowhere"])
@pytest.mark.parametrize("tokens", [{}, {"access": "wrong"}, {"traffic": TRAFFIC}])
async def test_stranger_cannot_wake_the_agent(lab: IngressLab, path: str, tokens: dict[str, str]) -> None:
    """On the agent's port only a request with its token wakes a sandbox. A wrong token is counted."""
    lab.run(access=ACCESS, traffic=TRAFFIC)
    lab.pause()
    answer = await lab.client.get(path, headers=to_port(AGENT_PORT, tokens))
    assert (answer.status, lab.wakes) == (403, 0)
    assert lab.failures == (1 if tokens else 0)
    assert (await lab.client.get(path, headers=to_port(AGENT_PORT, access=ACCESS))).status == 200
    assert lab.wakes == 1


async def test_holder_of_a_signed_url_cannot_wake(lab: IngressLab) -> None:
    """A signed URL finds a paused sandbox, with its address or without. It does not wake it, and is told so."""
    lab.run(access=ACCESS)
    lab.pause()
    signature = FileSignature("/x", "read", "user", None).by(ACCESS)
    query = {"path": "/x", "username": "user", "signature": signature}
    for headers in (to_port(AGENT_PORT), {}):
        answer = await lab.client.get("/files", params=query, headers=headers)
        assert answer.status == 403
        assert "is paused" in (await answer.json())["message"]
    assert lab.wakes == 0
    assert (await lab.client.get("/health", headers={"X-Access-Token": ACCESS})).status == 200  # by its token alone
    assert lab.wakes == 1


async def test_stranger_cannot_run_code_by_waking(lab: IngressLab) -> None:
    """A run of code needs the token before it wakes anything."""
    lab.run(access=ACCESS)
    lab.pause()
    assert (await lab.client.post("/execute", headers=to_port(INTERPRETER_PORT))).status == 401
    assert lab.wakes == 0
    assert (await lab.client.post("/execute", headers=to_port(INTERPRETER_PORT, access=ACCESS))).status == 200


@pytest.mark.parametrize("path", ["/init", "/freeze", "/kernels", "/pausing", "/resumed", "/PAUSING/"])
async def test_client_cannot_reach_internal_paths(lab: IngressLab, path: str) -> None:
    """The agent's internal paths are 404 from outside, whatever the token."""
    lab.run(access=ACCESS)
    answer = await lab.client.post(path, headers=to_port(AGENT_PORT, access=ACCESS))
    assert answer.status == 404
    lab.pause()
    answer = await lab.client.post(path, headers=to_port(AGENT_PORT, access=ACCESS))
    assert (answer.status, lab.wakes) == (404, 0)
    assert "reserved for the E2B control plane" in (await answer.json())["message"]


@pytest.mark.parametrize(
    "headers",
    [to_port(), to_port(traffic="wrong"), to_port(AGENT_PORT), to_port(AGENT_PORT, access="wrong"), to_port(INTERPRETER_PORT)],
)
async def test_stranger_cannot_tell_paused_from_unknown(lab: IngressLab, headers: dict[str, str]) -> None:
    """Without its tokens, a sandbox that traffic does not wake is answered byte by byte as an unknown one."""
    lab.run(access=ACCESS, traffic=TRAFFIC)
    lab.pause(wakes=False)
    unknown = "b" * 20
    answers = [await lab.client.get("/health", headers=headers | {"E2b-Sandbox-Id": one}) for one in (ID, unknown)]
    known, other = [(answer.status, dict(answer.headers) | {"Date": ""}, await answer.read()) for answer in answers]
    assert known[2].replace(ID.encode(), unknown.encode()) == other[2]
    assert known[:2] == other[:2]
    assert lab.failures == 0  # a delay would tell them apart, too


async def test_flood_of_requests_cannot_repeat_a_start(lab: IngressLab) -> None:
    """A hundred requests to a sandbox that cannot be resumed cost one attempt."""
    lab.run()
    lab.pause()
    lab.wake_fault = NoCapacityError("no memory")
    answers = await asyncio.gather(*(lab.client.get("/", headers=to_port()) for _ in range(80)))
    answers += [await lab.client.get("/", headers=to_port()) for _ in range(20)]
    assert {answer.status for answer in answers} == {503}
    assert lab.wakes == 1


async def test_flood_of_requests_cannot_start_a_sandbox_twice(lab: IngressLab) -> None:
    """Requests that come while a start is under way join it."""
    lab.run()
    lab.pause()
    lab.may_wake.clear()
    flood = [asyncio.create_task(lab.client.get("/", headers=to_port())) for _ in range(50)]
    await until(lambda: lab.wakes > 0)
    await asyncio.sleep(0.05)  # the others have come by then, or come later and join, too
    lab.may_wake.set()
    assert {answer.status for answer in await asyncio.gather(*flood)} == {200}
    assert lab.wakes == 1
