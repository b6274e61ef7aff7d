"""The process service over HTTP, without a sandbox around it: what official clients never send, slow readers, and bounds."""

from __future__ import annotations

import asyncio
import base64
import getpass
import json
import random
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from cloister.agent.events import EventLog
from cloister.agent.process import process as process_module
from cloister.agent.process.service import ProcessService
from cloister.agent.rpc import RpcRouter
from cloister.agent.state import AgentState
from cloister.protocol.init_document import AgentLimits, InitDocument
from cloister.protocol.message_binary import from_binary, to_binary
from cloister.protocol.process import EventResponse, ProcessConfig, StartRequest

JSON = {"Content-Type": "application/connect+json"}
UNARY = {"Content-Type": "application/json"}


class Agent:
    """A client of one process service."""

    def __init__(self, session: ClientSession, url: str, events: EventLog) -> None:
        self.session = session
        self.url = url
        self.events = events

    def path(self, method: str) -> str:
        """A method's address."""
        return f"{self.url}/process.Process/{method}"

    async def unary(self, method: str, message: Any, **headers: str) -> tuple[int, Any]:
        """(status, body) of a unary call."""
        async with self.session.post(self.path(method), json=message, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def stream(self, method: str, body: bytes, headers: dict[str, str] = JSON) -> tuple[list[Any], Any]:
        """(messages, end) of a streaming call whose request body is ``body``."""
        async with self.session.post(self.path(method), data=body, headers=headers) as response:
            assert response.status == 200
            *messages, last = cut(await response.read())
            assert last[0] == 2
            return [json.loads(data) for _, data in messages], json.loads(last[1])

    async def start(self, *argv: str, **fields: Any) -> tuple[list[Any], Any]:
        """Run to the end."""
        return await self.stream("Start", start_body(*argv, **fields))


def envelope(message: Any, flags: int = 0) -> bytes:
    """One envelope."""
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">BI", flags, len(data)) + data


def start_body(*argv: str, **fields: Any) -> bytes:
    """The body of a Start call."""
    return envelope({"process": {"cmd": argv[0], "args": argv[1:], "cwd": "/"}, "stdin": False, **fields})


def cut(data: bytes) -> list[tuple[int, bytes]]:
    """(flags, data) of all envelopes."""
    found = []
    while data:
        flags, size = struct.unpack_from(">BI", data)
        found.append((flags, data[5 : 5 + size]))
        data = data[5 + size :]
    return found


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    """The service in this process, which runs programs as whoever runs the tests."""
    limits = AgentLimits(output_mib=4)
    state = AgentState.from_document(InitDocument(sandbox_id="s", user=getpass.getuser(), workdir="/", limits=limits))
    events, rpc, app = EventLog(), RpcRouter(), web.Application()
    ProcessService(state, events, lambda: 0).register(rpc)
    app.router.add_routes(rpc.routes())
    server = TestServer(app)
    await server.start_server()
    async with ClientSession(read_bufsize=1024) as session:
        yield Agent(session, str(server.make_url("")).rstrip("/"), events)
    await server.close()


async def test_start_and_events(agent: Agent) -> None:
    """A run has its start, its output and its end, and is in the sandbox's log."""
    messages, end = await agent.start("/bin/sh", "-c", "printf out; exit 3")
    assert end == {}
    kinds = [next(iter(one["event"])) for one in messages]
    assert kinds == ["start", "data", "end"]
    assert messages[1]["event"]["data"] == {"stdout": "b3V0"}
    assert messages[2]["event"]["end"] == {"exitCode": 3, "exited": True, "status": "exit status 3", "error": "exit status 3"}
    started, ended = agent.events.since(0)
    assert (started.kind, started.fields["command"]) == ("process.started", "printf out; exit 3")
    assert (ended.kind, ended.fields["exit_code"], ended.fields["pid"]) == ("process.ended", 3, started.fields["pid"])


async def test_binary_codec(agent: Agent) -> None:
    """The same call in binary protobuf."""
    request = to_binary(StartRequest(process=ProcessConfig(cmd="/bin/echo", args=("hello",), cwd="/"), stdin=False))
    headers = {"Content-Type": "application/connect+proto"}
    async with agent.session.post(agent.path("Start"), data=envelope(request), headers=headers) as response:
        assert response.content_type == "application/connect+proto"
        *messages, last = cut(await response.read())
    events = [from_binary(EventResponse, data).event for _, data in messages]
    assert [event.data.stdout for event in events if event and event.data] == [b"hello\n"]
    assert last == (2, b"{}")
    headers = {"Content-Type": "application/proto"}
    async with agent.session.post(agent.path("List"), data=b"", headers=headers) as response:
        assert (response.status, response.content_type, await response.read()) == (200, "application/proto", b"")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_argument"),
        (b"\0\0", "invalid_argument"),
        (envelope({"process": {"cmd": "/bin/true"}})[:-3], "invalid_argument"),
        (envelope(b"{"), "invalid_argument"),
        (envelope(b"\xff\xfe"), "invalid_argument"),
        (envelope({}) * 2, "invalid_argument"),
        (envelope({}, flags=1), "unimplemented"),
        (envelope({}, flags=0x80), "invalid_argument"),
        (b"\0\xff\xff\xff\xff" + b"x" * 1000, "invalid_argument"),
        (envelope({}), "invalid_argument"),
        (start_body("/no/such/program"), "invalid_argument"),
        (start_body("no-such-program"), "invalid_argument"),
        (start_body("/etc/passwd"), "invalid_argument"),
        (start_body("/bin/true\0"), "invalid_argument"),
        (start_body("/bin/true", pty={"size": {"cols": 100_000}}), "invalid_argument"),
    ],
)
async def test_wrong_starts(agent: Agent, body: bytes, code: str) -> None:
    """A malformed request ends with an error that names the fault, and starts no process."""
    messages, end = await agent.stream("Start", body)
    assert messages == []
    assert end["error"]["code"] == code
    assert end["error"]["message"]
    assert await agent.unary("List", {}) == (200, {})
    assert agent.events.since(0) == []


async def test_wrong_headers(agent: Agent) -> None:
    """Other content types are 415 and say what is taken; compression, bad time limits and bad users are errors by name."""
    for method, wrong in (
        ("Start", "application/json"),
        ("List", "application/connect+json"),
        ("List", "text/plain"),
        ("Start", "application/grpc"),
    ):
        async with agent.session.post(agent.path(method), data=b"{}", headers={"Content-Type": wrong}) as response:
            assert response.status == 415
            assert "json" in response.headers["Accept-Post"]
    body = start_body("/bin/true")
    for header, value, code in (
        ("Connect-Content-Encoding", "gzip", "unimplemented"),
        ("Connect-Timeout-Ms", "soon", "invalid_argument"),
        ("Authorization", "Basic !!!", "unauthenticated"),
        ("Authorization", "Basic bm9ib2R5LWhlcmU6", "unauthenticated"),
    ):
        _, end = await agent.stream("Start", body, {**JSON, header: value})
        assert end["error"]["code"] == code
    status, error = await agent.unary("List", {}, **{"Content-Encoding": "br"})
    assert (status, error["code"]) == (501, "unimplemented")
    async with agent.session.get(agent.path("List")) as response:
        assert response.status == 405


@pytest.mark.parametrize(
    ("method", "message", "status", "code"),
    [
        ("SendSignal", {"process": {"pid": 4_000_000}, "signal": "SIGNAL_SIGKILL"}, 404, "not_found"),
        ("SendSignal", {"process": {"pid": 1}, "signal": "SIGNAL_SIGKILL"}, 404, "not_found"),
        ("SendSignal", {"process": {"pid": 1}}, 400, "invalid_argument"),
        ("SendSignal", {"process": {}, "signal": 9}, 400, "invalid_argument"),
        ("SendInput", {"process": {"tag": "none"}, "input": {"stdin": "eA=="}}, 404, "not_found"),
        ("SendInput", [], 400, "invalid_argument"),
        ("CloseStdin", {}, 400, "invalid_argument"),
        ("Update", {"process": {"pid": 4_000_000}}, 404, "not_found"),
    ],
)
async def test_wrong_calls(agent: Agent, method: str, message: Any, status: int, code: str) -> None:
    """Unary errors have their status and a JSON body with code and message."""
    got, error = await agent.unary(method, message)
    assert (got, error["code"]) == (status, code)
    assert error["message"]


async def test_tags(agent: Agent) -> None:
    """A tag finds its process among others, the newest of several, and after the end."""
    others = [await follow(agent, "/bin/sleep", "30", tag=tag) for tag in ("a", "b", "wanted", "c")]
    status, listed = await agent.unary("List", {})
    assert (status, [one["tag"] for one in listed["processes"]]) == (200, ["a", "b", "wanted", "c"])
    status, _ = await agent.unary("SendSignal", {"process": {"tag": "wanted"}, "signal": "SIGNAL_SIGTERM"})
    assert status == 200
    messages, _ = await agent.stream("Connect", envelope({"process": {"tag": "wanted"}}))
    assert messages[-1]["event"]["end"]["status"] == "signal: terminated"
    for response, tag in zip(others, ("a", "b", None, "c"), strict=True):
        if tag:
            assert (await agent.unary("SendSignal", {"process": {"tag": tag}, "signal": "SIGNAL_SIGKILL"}))[0] == 200
        response.close()


async def follow(agent: Agent, *argv: str, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    """Start, and return the answer when its first event was read."""
    response = await agent.session.post(agent.path("Start"), data=start_body(*argv, **fields), headers={**JSON, **(headers or {})})
    await response.content.readexactly(struct.unpack(">BI", await response.content.readexactly(5))[1])
    return response


async def test_last_words(agent: Agent) -> None:
    """Output of a program during its termination arrives."""
    response = await follow(agent, "/bin/bash", "-c", "trap 'echo bye; exit 9' TERM; echo ready; sleep 30 & wait")
    while b"cmVhZHkK" not in await response.content.readany():
        pass
    (process,) = (await agent.unary("List", {}))[1]["processes"]
    await agent.unary("SendSignal", {"process": {"pid": process["pid"]}, "signal": "SIGNAL_SIGTERM"})
    rest = await response.read()
    assert b"YnllCg==" in rest
    assert b'"exitCode":9' in rest


async def test_keepalive(agent: Agent) -> None:
    """A quiet stream is kept alive as often as the client wants it."""
    headers = {**JSON, "Keepalive-Ping-Interval": "1"}
    messages, _ = await agent.stream("Start", start_body("/bin/sleep", "2.5"), headers)
    assert [next(iter(one["event"])) for one in messages] == ["start", "keepalive", "keepalive", "end"]


async def test_deadlines(agent: Agent) -> None:
    """Start's limit kills the process and says so; Connect's ends the call only; a unary call's ends a call that waits."""
    _, end = await agent.stream("Start", start_body("/bin/sleep", "30"), {**JSON, "Connect-Timeout-Ms": "200"})
    assert end["error"]["code"] == "deadline_exceeded"
    response = await follow(agent, "/bin/sleep", "30", tag="t", stdin=True)
    _, end = await agent.stream("Connect", envelope({"process": {"tag": "t"}}), {**JSON, "Connect-Timeout-Ms": "200"})
    assert end["error"]["code"] == "deadline_exceeded"
    message = {"process": {"tag": "t"}, "input": {"stdin": "eHh4" * 100_000}}
    status, error = await agent.unary("SendInput", message, **{"Connect-Timeout-Ms": "200"})
    assert (status, error["code"]) == (504, "deadline_exceeded")
    assert (await agent.unary("SendSignal", {"process": {"tag": "t"}, "signal": 9}))[0] == 200
    response.close()


async def test_a_stalled_reader_is_cut_off_and_nobody_else_suffers(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that takes nothing stops the program at the bound for a moment only; another reader gets everything."""
    monkeypatch.setattr(process_module, "_STALL_S", 1.0)
    stalled = await follow(agent, "/bin/bash", "-c", "read x; head -c 40000000 /dev/zero", stdin=True, tag="big")
    reading = asyncio.ensure_future(agent.stream("Connect", envelope({"process": {"tag": "big"}})))
    await asyncio.sleep(0.2)
    await agent.unary("SendInput", {"process": {"tag": "big"}, "input": {"stdin": "Cg=="}})
    messages, end = await asyncio.wait_for(reading, 60)
    assert end == {}
    assert sum(len(one["event"]["data"]["stdout"]) * 3 // 4 for one in messages if "data" in one["event"]) >= 40_000_000
    assert messages[-1]["event"]["end"]["status"] == "exit status 0"
    *_, (flags, last) = cut(await asyncio.wait_for(stalled.read(), 30))  # when it reads at last, it is told
    assert flags == 2
    assert json.loads(last)["error"]["code"] == "resource_exhausted"
    assert "4 MiB" in json.loads(last)["error"]["message"]


async def test_a_slow_reader_gets_everything(agent: Agent) -> None:
    """A reader that is slow but reads gets every byte, however far it is behind."""
    response = await follow(agent, "/usr/bin/seq", "1", "1500000")
    data = bytearray()
    while part := await response.content.read(200_000):
        data += part
        await asyncio.sleep(0.002)
    events = [json.loads(one)["event"] for flags, one in cut(bytes(data)) if flags == 0]
    whole = b"".join(base64.b64decode(one["data"]["stdout"]) for one in events if "data" in one)
    assert whole == b"".join(b"%d\n" % i for i in range(1, 1_500_001))


async def test_garbage_leaves_the_agent_alive(agent: Agent) -> None:
    """Random bytes at every method, and connections that are closed half-way, harm nothing; no descriptor is left open."""
    chance = random.Random(7)
    methods = ["Start", "Connect", "StreamInput", "List", "SendInput", "Update", "CloseStdin", "SendSignal"]
    host, port = agent.url.removeprefix("http://").split(":")
    await agent.unary("List", {})
    before = len(list(Path("/proc/self/fd").iterdir()))
    for round_ in range(200):
        kind = chance.choice([JSON, UNARY, {"Content-Type": "application/connect+proto"}, {"Content-Type": "application/proto"}])
        body = chance.randbytes(chance.randint(0, 40)) if chance.random() < 0.5 else envelope(chance.randbytes(chance.randint(0, 40)))
        async with agent.session.post(agent.path(chance.choice(methods)), data=body, headers=kind) as response:
            assert response.status in {200, 400, 404, 415, 429, 501}
            await response.read()
        if round_ % 10 == 0:
            _, writer = await asyncio.open_connection(host, int(port))
            head = f"POST /process.Process/StreamInput HTTP/1.1\r\nHost: x\r\nContent-Type: {kind['Content-Type']}\r\n"
            writer.write(f"{head}Content-Length: 1000\r\n\r\n".encode() + body)
            await writer.drain()
            writer.close()
    assert await agent.unary("List", {}) == (200, {})
    await asyncio.sleep(0.2)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3
