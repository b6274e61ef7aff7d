"""The HTTP face of the code interpreter, with kernels of the fake driver."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yarl
from aiohttp import web

from cloister.agent.interpreter.app import interpreter_app
from cloister.agent.interpreter.detached import DetachedOutput
from cloister.agent.interpreter.kernel import Display, Output
from cloister.agent.state import AgentState
from cloister.protocol.init_document import InitDocument
from framework.fake_interpreter import Interpreter
from framework.waiting import turns, until

TOKEN = "t" * 64


class Client:
    """Requests to one app."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        """(status, text) of one request."""
        async with self.session.request(method, self.url + path, json=body, headers=headers) as response:
            return response.status, await response.text()

    async def stream(self, code: str, **fields: Any) -> list[dict[str, Any]]:
        """The events of one run, keepalives among them."""
        status, text = await self.call("POST", "/execute", {"code": code, **fields})
        assert status == 200, text
        assert text.isascii()
        return [json.loads(line) for line in text.splitlines()]

    async def execute(self, code: str, **fields: Any) -> list[dict[str, Any]]:
        """The events of one run; a busy machine may send keepalives between any two."""
        return [event for event in await self.stream(code, **fields) if event["type"] != "keepalive"]


async def read_to(response: aiohttp.ClientResponse, word: bytes) -> None:
    """Read the stream of a run up to the event with the word; a busy machine may send keepalives before it."""
    while word not in (line := await response.content.readline()):
        assert line, "the stream has ended"


async def serve(interpreter: Interpreter, token: str | None) -> tuple[web.AppRunner, str]:
    """Start an app as the agent does, on a free port."""
    state = AgentState.from_document(InitDocument(sandbox_id="x", access_token=token))
    runner = web.AppRunner(interpreter_app(state, interpreter.contexts, keepalive_s=0.1), handler_cancellation=True, access_log=None)
    await runner.setup()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    return runner, f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
async def client(interpreter: Interpreter) -> AsyncIterator[Client]:
    """A client of an app without a token."""
    runner, url = await serve(interpreter, None)
    async with aiohttp.ClientSession() as session:
        yield Client(url, session)
    await runner.cleanup()


@pytest.fixture
async def secured(interpreter: Interpreter) -> AsyncIterator[Client]:
    """A client of an app with a token, which the client does not send by itself."""
    runner, url = await serve(interpreter, TOKEN)
    async with aiohttp.ClientSession() as session:
        yield Client(url, session)
    await runner.cleanup()


async def test_events_of_a_run(client: Client) -> None:
    """A run answers with its output, result, count and end, one JSON object a line."""
    events = await client.execute("out('hello\\n'); result(\"'quoted'\")")
    assert [event["type"] for event in events] == ["stdout", "result", "number_of_executions", "end_of_execution"]
    assert events[0]["text"] == "hello\n"
    assert isinstance(events[0]["timestamp"], int)
    assert events[1] == {"type": "result", "text": "quoted", "is_main_result": True}
    assert events[2]["execution_count"] == 1
    assert events[3]["cost"]["wall_ms"] >= 0


async def test_text_outside_ascii_is_escaped(client: Client) -> None:
    """Characters of other scripts are escaped on the wire and arrive unchanged."""
    events = await client.execute("out('žluť 😀')")
    assert events[0]["text"] == "žluť 😀"


async def test_not_a_number_becomes_null(client: Client) -> None:
    """NaN and infinity in structured results reach clients as null."""
    code = "send({'op': 'result', 'id': run_id, 'data': {'application/json': {'a': float('nan')}}}); "
    code += 'channel.sendall(b\'{"op": "result", "data": {"application/json": [1e999]}}\\n\')'
    events = await client.execute(code)
    assert [event["json"] for event in events if event["type"] == "result"] == [{"a": None}, [None]]


async def test_keepalive_while_nothing_happens(client: Client) -> None:
    """A silent run sends keepalives, and so does one that waits for its turn."""
    first, second = await asyncio.gather(client.stream("import time; time.sleep(0.35)"), client.stream("1"))
    for events in (first, second):
        assert events[0] == {"type": "keepalive"}
        assert events[-1]["type"] == "end_of_execution"


async def test_headers_come_before_output(client: Client) -> None:
    """The answer's headers come at once, before the code has written anything."""
    async with asyncio.timeout(5), client.session.post(client.url + "/execute", json={"code": "import time; time.sleep(60)"}) as response:
        assert response.status == 200


async def test_disconnect_stops_the_code(client: Client) -> None:
    """A client that closes its connection has its code interrupted; state is kept."""
    await client.execute("x = 'kept'")
    async with client.session.post(client.url + "/execute", json={"code": "out('a')\nwhile True: pass"}) as response:
        await response.content.readline()
    events = await asyncio.wait_for(client.execute("result(x)"), 3)
    assert events[0]["text"] == "kept"


async def test_a_pause_takes_the_client_and_the_code_goes_on(client: Client, interpreter: Interpreter) -> None:
    """At a pause the stream breaks, the code runs on to its end, and the next run of the context tells what became of it."""
    code = "import time; out('early')\nwhile not __import__('os').path.exists('go'): time.sleep(0.01)\nx = 'kept'; out('after'); 1 / 0"
    async with client.session.post(client.url + "/execute", json={"code": code}) as response:
        await read_to(response, b"early")
        interpreter.contexts.detach_runs()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    Path(interpreter.context().cwd, "go").touch()
    events = await client.execute("result(x)")
    assert events[0]["type"] == "stderr"
    assert "lost its client at a pause" in events[0]["text"]
    assert "ended with ZeroDivisionError" in events[0]["text"]
    assert "after" in events[0]["text"]
    assert "early" not in events[0]["text"]
    assert events[1]["text"] == "kept"
    assert "pause" not in json.dumps(await client.execute("result(x)"))


async def test_a_second_pause_during_a_run(client: Client, interpreter: Interpreter) -> None:
    """A run that outlasts two pauses still goes on, and so does one of another context that lost its client at the second alone."""
    code = "import time; out('begun\\n')\nwhile not __import__('os').path.exists('go'): time.sleep(0.01)\nx = 'kept'"
    _, made = await client.call("POST", "/contexts", {})
    for context_id in (None, json.loads(made)["id"]):
        async with client.session.post(client.url + "/execute", json={"code": code, "context_id": context_id}) as response:
            await read_to(response, b"begun")
            interpreter.contexts.detach_runs()
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
    Path(interpreter.context().cwd, "go").touch()
    for context_id in (None, json.loads(made)["id"]):
        notice, result, *_ = await client.execute("result(x)", context_id=context_id)
        assert "ended without an error" in notice["text"]
        assert result["text"] == "kept"


async def test_a_pause_leaves_code_that_its_client_left(interpreter: Interpreter) -> None:
    """Code whose client went away is interrupted also if a pause comes before it ends, and the next run hears nothing of it."""
    run = interpreter.submit("out('begun')\nwhile True: pass")
    await run.next_events()
    run.abandon()
    interpreter.contexts.detach_runs()
    following = await interpreter.run("result('next')")
    assert (following.stderr, following.text) == ("", "next")


@pytest.mark.parametrize("ends", ["before it is known", "afterwards"])
async def test_code_goes_on_in_a_copy(interpreter: Interpreter, ends: str) -> None:
    """Its connection is broken in a copy: it is not interrupted, and the next run is told how it ended."""
    run = interpreter.submit("out('begun\\n')\nwhile not __import__('os').path.exists('go'): pass\nx = 'kept'; out('late')")
    await run.next_events()
    interpreter.contexts.expect_copies()
    run.abandon()
    if ends == "afterwards":
        interpreter.contexts.settle(is_copy=True)
    Path(interpreter.context().cwd, "go").touch()
    await until(lambda: interpreter.context().run is None)
    if ends == "before it is known":
        interpreter.contexts.settle(is_copy=True)
    following = await interpreter.run("result(x)")
    assert following.text == "kept"
    assert "when this copy of the sandbox was made. It went on and ended without an error" in following.stderr
    assert "late" in following.stderr


async def test_a_stream_of_a_copy_that_is_not_broken_yet_ends(client: Client, interpreter: Interpreter) -> None:
    """It has no client any more; its code goes on."""
    code = "out('begun\\n')\nwhile not __import__('os').path.exists('go'): pass\nx = 'kept'"
    async with client.session.post(client.url + "/execute", json={"code": code}) as response:
        await read_to(response, b"begun")
        interpreter.contexts.expect_copies()
        interpreter.contexts.settle(is_copy=True)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    Path(interpreter.context().cwd, "go").touch()
    notice, result, *_ = await client.execute("result(x)")
    assert ("copy of the sandbox" in notice["text"], result["text"]) == (True, "kept")


async def test_a_capture_leaves_code_to_its_client(interpreter: Interpreter) -> None:
    """The original's code goes on with its client. It is interrupted if that leaves, at the latest when the capture is over."""
    run = interpreter.submit("out('begun')\nwhile True: pass")
    await run.next_events()
    for _ in range(2):
        interpreter.contexts.expect_copies()
        interpreter.contexts.settle(is_copy=False)
    interpreter.contexts.expect_copies()
    run.abandon()
    await turns()
    assert interpreter.context().run is run
    interpreter.contexts.settle(is_copy=False)
    following = await interpreter.run("result('next')")
    assert (following.stderr, following.text) == ("", "next")


async def test_a_pause_does_not_run_what_waits(client: Client, interpreter: Interpreter) -> None:
    """A run that waits for its turn at a pause is given up when its connection breaks."""
    busy = asyncio.create_task(client.execute("import time; seen = 1\nwhile not __import__('os').path.exists('go'): time.sleep(0.01)"))
    await until(lambda: interpreter.context().run is not None)
    waiting = client.session.post(client.url + "/execute", json={"code": "seen = 2"})
    async with waiting:
        interpreter.contexts.detach_runs()
    Path(interpreter.context().cwd, "go").touch()
    with pytest.raises(aiohttp.ClientError):
        await busy
    assert [event["text"] for event in await client.execute("result(str(seen))") if event["type"] == "result"] == ["1"]


def test_detached_output_is_bounded() -> None:
    """The newest text is kept, and what is missing is counted."""
    output = DetachedOutput()
    for number in range(1000):
        output.add([Output("stdout", f"{number:999d}\n"), Display({}, {}, True, 0)])
    text = output.notice()
    assert len(text) < 70_000
    assert "1000 results" in text
    assert text.endswith("999\n")
    assert "934464 characters before it were not kept" in text


@pytest.mark.parametrize(("count", "said"), [(0, None), (1, "It gave a result that was"), (2, "It gave 2 results that were")])
def test_results_of_a_detached_run_are_counted(count: int, said: str | None) -> None:
    """In words that fit the number."""
    output = DetachedOutput()
    output.add([Display({}, {}, True, 0)] * count)
    assert ("It gave" in output.notice()) is (said is not None)
    assert (said or "") in output.notice()


async def test_killed_connection_of_a_waiting_run(client: Client) -> None:
    """A client that leaves while it queues has its code never run."""
    busy = asyncio.create_task(client.execute("import time; time.sleep(0.5); seen = 1"))
    await asyncio.sleep(0.1)
    async with client.session.post(client.url + "/execute", json={"code": "seen = 2"}):
        pass
    await busy
    assert (await client.execute("result(str(seen))"))[0]["text"] == "1"


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"code": "1", "context_id": "none"}, 404, "Context none not found"),
        ({"code": "1", "context_id": "a", "language": "python"}, 400, "Only one of context_id or language"),
        ({"code": "1", "language": "cobol"}, 404, "Available: python, javascript"),
        ({"language": "python"}, 400, "'code' must be a string"),
        ({"code": "1", "env_vars": {"A": 1}}, 400, "must be a string"),
        ({"code": "1", "env_vars": {"A=B": "1"}}, 400, "environment can hold"),
        ([], 400, "must be a JSON object"),
    ],
)
async def test_refused_runs(client: Client, body: Any, status: int, text: str) -> None:
    """A request that cannot be run is refused with a status and a text that says why."""
    got = await client.call("POST", "/execute", body)
    assert got[0] == status
    assert text in got[1]


async def test_contexts_over_http(client: Client) -> None:
    """Contexts can be made, listed, restarted and removed; unknown ones are 404."""
    status, text = await client.call("POST", "/contexts", {"language": "Python", "cwd": "/"})
    made = json.loads(text)
    assert (status, made["language"], made["cwd"]) == (200, "python", "/")
    listed = json.loads((await client.call("GET", "/contexts"))[1])
    assert made in listed
    assert {one["language"] for one in listed} == {"python", "javascript"}
    await client.execute("x = 1", context_id=made["id"])
    assert (await client.call("POST", f"/contexts/{made['id']}/restart"))[0] == 200
    assert (await client.execute("result(str('x' in globals()))", context_id=made["id"]))[0]["text"] == "False"
    assert (await client.call("DELETE", f"/contexts/{made['id']}"))[0] == 200
    for method, path in (("DELETE", ""), ("POST", "/restart")):
        assert (await client.call(method, f"/contexts/{made['id']}{path}"))[0] == 404
    assert (await client.call("POST", "/contexts", {"cwd": "/no/such"}))[0] == 400
    assert await client.call("POST", "/contexts", {"cwd": __file__}) == (400, f"cwd '{__file__}' is not a directory")


async def test_defaults_are_listed_first_and_the_newest_context_last(client: Client) -> None:
    """Also when a client's own contexts are older than the defaults, and when a default has been deleted."""

    async def listed() -> list[tuple[str, str]]:
        return [(one["id"], one["language"]) for one in json.loads((await client.call("GET", "/contexts"))[1])]

    made = [json.loads((await client.call("POST", "/contexts", {"language": name}))[1])["id"] for name in ("javascript", "python")]
    await client.execute("x = 1")
    first = await listed()
    assert [language for _, language in first[:2]] == ["python", "javascript"]
    assert [one for one, _ in first[2:]] == made
    assert (await client.call("DELETE", f"/contexts/{first[0][0]}"))[0] == 200
    made.append(json.loads((await client.call("POST", "/contexts", {}))[1])["id"])
    again = await listed()
    assert [language for _, language in again[:2]] == ["python", "javascript"]
    assert again[0][0] not in (first[0][0], *made)
    assert [one for one, _ in again[2:]] == made
    assert (await client.execute("result(str('x' in globals()))"))[0]["text"] == "False"


async def test_health_needs_no_token(secured: Client) -> None:
    """Whoever asks may know that the interpreter serves."""
    assert await secured.call("GET", "/health") == (200, "OK")


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], "š"])
async def test_a_stranger_cannot_run_code(secured: Client, token: str | None) -> None:
    """Without the sandbox's token, or with another, no code runs."""
    headers = {} if token is None else {"X-Access-Token": token}
    status, text = await secured.call("POST", "/execute", {"code": "result('ran')"}, **headers)
    assert status == 401
    assert "ran" not in text


async def test_the_token_opens(secured: Client) -> None:
    """With the token code runs; the calls for contexts, where clients send none, refuse only a wrong one."""
    right = {"X-Access-Token": TOKEN}
    assert (await secured.call("POST", "/execute", {"code": "1"}, **right))[0] == 200
    assert (await secured.call("GET", "/contexts"))[0] == 200
    assert (await secured.call("GET", "/contexts", **right))[0] == 200
    assert (await secured.call("GET", "/contexts", **{"X-Access-Token": "wrong"}))[0] == 401


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/contexts", '{"cwd": "\\ud800"}'),
        ("/contexts", '{"cwd": "/\\ud800"}'),
        ("/contexts", '{"language": "\\ud800"}'),
        ("/contexts", '{"\\ud800": "\\ud800", "cwd": 5}'),
        ("/execute", '{"code": "1", "language": "\\ud800"}'),
        ("/execute", '{"code": "1", "context_id": "\\ud800"}'),
        ("/execute", '{"code": "1", "env_vars": {"\\ud800": 5}}'),
        ("/execute", '{"code": "1", "env_vars": {"\\ud800=": "5"}}'),
        ("/execute", '{"code": 1, "\\ud800": "5"}'),
        ("/contexts/%ff%fe/restart", ""),
        ("/nowhere/%ff%fe", ""),
    ],
)
async def test_half_characters_are_the_clients_fault(client: Client, path: str, body: str) -> None:
    """Text that no encoding can hold is refused like any other wrong value, although the answer quotes it."""
    url = yarl.URL(client.url + path, encoded=True)
    async with client.session.post(url, data=body.encode(), headers={"Content-Type": "application/json"}) as response:
        assert response.status in (400, 404), await response.text()
        assert await response.text()
