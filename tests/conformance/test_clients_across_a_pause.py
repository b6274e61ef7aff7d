"""SDK users keep what they hold when their sandbox is paused and resumed: commands, terminals, contexts, watches, URLs, streams."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from e2b import AsyncSandbox, CommandExitException, PtySize, Sandbox, SandboxException, SandboxNotRunningException
from e2b_code_interpreter import AsyncSandbox as AsyncCodeSandbox
from e2b_code_interpreter import Sandbox as CodeSandbox

from cloister.protocol.connect import EnvelopeParser, encode_envelope
from framework.beside import beside
from framework.server import Server
from framework.waiting import eventually, eventually_async

pytestmark = [pytest.mark.root, pytest.mark.templates]
_WAKES: Any = {"on_timeout": "pause", "auto_resume": True}


@pytest.fixture
def sandbox(server: Server) -> Iterator[CodeSandbox]:
    """A sandbox with an interpreter, which only clients with a key resume."""
    made = CodeSandbox.create(timeout=600, envs={"GIVEN": "1"}, metadata={"m": "1"}, **server.sdk)
    yield made
    made.kill()


@pytest.fixture
def waking(server: Server) -> Iterator[Sandbox]:
    """A sandbox that traffic wakes."""
    made = Sandbox.create("base", timeout=600, lifecycle=_WAKES, **server.sdk)
    yield made
    made.kill()


def _numbers(text: str) -> list[int]:
    return [int(word) for word in re.findall(r"^(\d+)$", text, re.MULTILINE)]


def test_a_command_counts_on(sandbox: CodeSandbox, server: Server) -> None:
    """A client that connects again to a command gets every number, once, across several pauses."""
    handle = sandbox.commands.run("i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); sleep 0.005; done", background=True)
    got: list[str] = []
    for _ in range(4):
        for out, _err, _pty in handle:
            got.append(out or "")
            if len(got) % 20 == 19:
                break
        with beside(sandbox.pause), contextlib.suppress(SandboxException):
            for out, _err, _pty in handle:
                got.append(out or "")
        eventually(lambda: not sandbox.is_running())
        sandbox.connect()
        handle = sandbox.commands.connect(handle.pid)
    result = handle.wait(on_stdout=got.append)
    assert result.exit_code == 0
    assert _numbers("".join(got)) == list(range(400))


def test_output_that_came_before_anyone_connects(sandbox: CodeSandbox) -> None:
    """Output between the resume and the connection is kept, also when the command has ended by then."""
    handle = sandbox.commands.run("sleep 0.5; echo first; sleep 1; echo second; exit 7", background=True)
    sandbox.pause()
    sandbox.connect()
    eventually(lambda: handle.pid not in [one.pid for one in sandbox.commands.list()])
    with pytest.raises(CommandExitException) as ended:
        sandbox.commands.connect(handle.pid).wait()
    assert (ended.value.stdout, ended.value.exit_code) == ("first\nsecond\n", 7)


def test_output_beyond_the_bound_is_counted(sandbox: CodeSandbox) -> None:
    """Of more than a megabyte without a client the newest is kept, and a line says what is missing."""
    handle = sandbox.commands.run("sleep 0.5; seq 1 1000000", background=True)
    sandbox.pause()
    sandbox.connect()
    eventually(lambda: handle.pid not in [one.pid for one in sandbox.commands.list()], timeout_s=60)
    result = sandbox.commands.connect(handle.pid).wait()
    assert result.stdout.endswith("999999\n1000000\n")
    assert len(result.stdout) <= 1 << 20
    missing = re.fullmatch(r"\[(\d+) bytes of output were dropped here, as no client was connected\]\n", result.stderr)
    assert missing is not None
    assert int(missing[1]) + len(result.stdout) == sum(len(str(n)) + 1 for n in range(1, 1_000_001))


def test_a_terminal_goes_on(sandbox: CodeSandbox) -> None:
    """A shell keeps its directory and variables, and takes input from a client that connects again."""
    seen = bytearray()
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    sandbox.pty.send_stdin(handle.pid, b"cd /tmp; MINE=kept; (sleep 0.5; echo late-$MINE) &\n")
    sandbox.pause()
    sandbox.connect()
    again = sandbox.pty.connect(handle.pid)
    sandbox.pty.send_stdin(handle.pid, b"wait; echo $PWD-$MINE; exit\n")
    again.wait(on_pty=seen.extend)
    assert b"late-kept" in seen
    assert b"/tmp-kept" in seen


def test_contexts_watches_and_urls(sandbox: CodeSandbox) -> None:
    """Contexts keep variables, polled watches their events, signed URLs and metadata their validity."""
    context = sandbox.create_code_context(language="python")
    sandbox.run_code("import os, time; x = os.getpid(); started = time.monotonic()", context=context)
    sandbox.run_code("y = 5", language="javascript")
    watch = sandbox.files.watch_dir("/tmp")
    sandbox.files.write("/tmp/signed.txt", "signed")
    url = sandbox.download_url("/tmp/signed.txt")
    boot_id = sandbox.files.read("/proc/sys/kernel/random/boot_id")
    sandbox.pause()
    sandbox.connect()
    assert sandbox.run_code("x == os.getpid()", context=context).text == "True"
    assert sandbox.run_code("y", language="javascript").text == "5"
    assert sandbox.run_code("os.environ['GIVEN']", context=context).text == "1"
    sandbox.files.write("/tmp/new.txt", "new")
    assert {"signed.txt", "new.txt"} <= {event.name for event in watch.get_new_events()}
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"signed"
    assert sandbox.files.read("/proc/sys/kernel/random/boot_id") == boot_id
    assert sandbox.get_info().metadata == {"m": "1"}


def test_code_that_runs_at_a_pause_goes_on(sandbox: CodeSandbox) -> None:
    """Its client gets an error, and the next run finds its state, and is told how it ended."""
    failed: list[BaseException] = []
    code = "import os, time\nopen('/tmp/begun', 'w').close()\nwhile not os.path.exists('/tmp/go'):\n    time.sleep(0.05)\ntotal = 780\n"

    def run() -> None:
        try:
            sandbox.run_code(f"{code}print('all of it')")
        except BaseException as error:  # noqa: BLE001 - a thread's, looked at below
            failed.append(error)

    client = threading.Thread(target=run)
    client.start()
    eventually(lambda: sandbox.files.exists("/tmp/begun"))
    sandbox.pause()
    client.join(20)
    assert failed
    sandbox.connect()
    sandbox.files.write("/tmp/go", "")
    result = sandbox.run_code("total")
    assert result.text == "780"
    assert "lost its client at a pause" in "".join(result.logs.stderr)
    assert "all of it" in "".join(result.logs.stderr)


def test_time_limits_do_not_count_the_pause(sandbox: CodeSandbox) -> None:
    """A command with a limit of 4 s that is paused for 5 s ends by itself after its 2 s, not by the limit."""
    handle = sandbox.commands.run("sleep 2; echo in time", background=True, timeout=4)
    sandbox.pause()
    time.sleep(5)
    sandbox.connect()
    assert sandbox.commands.connect(handle.pid).wait().stdout == "in time\n"


def test_what_a_broken_command_raises(sandbox: CodeSandbox) -> None:
    """A command whose sandbox is paused raises the SDK's error for a sandbox that does not run, and so does a new one."""
    handle = sandbox.commands.run("sleep 60", background=True)
    with beside(sandbox.pause), pytest.raises(SandboxNotRunningException):
        handle.wait()
    assert not sandbox.is_running()
    with pytest.raises(SandboxNotRunningException):
        sandbox.commands.run("true")
    with pytest.raises(SandboxNotRunningException):
        sandbox.files.read("/etc/hostname")


def test_a_command_that_a_pause_of_files_ends(sandbox: CodeSandbox, server: Server) -> None:
    """Its stream ends with a whole frame, an error that names the sandbox and says that the process ends."""
    url = f"{server.url}/process.Process/Start"
    headers = {"X-Access-Token": sandbox._envd_access_token or "", "E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    user = base64.b64encode(b"user:").decode()
    headers |= {"Content-Type": "application/connect+json", "Authorization": f"Basic {user}"}
    body = {"process": {"cmd": "/bin/sh", "args": ["-c", "echo begun; exec sleep 600"]}}
    request = urllib.request.Request(url, encode_envelope(json.dumps(body).encode()), headers, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        got = answer.read1()
        while b'"data"' not in got:
            got += answer.read1()
        assert sandbox.pause(mode="filesystem")
        got += answer.read()
    *_, last = EnvelopeParser(1 << 20).feed(got)
    error = json.loads(last.data)["error"]
    assert (last.is_end, error["code"]) == (True, "unavailable")
    assert re.fullmatch(f"sandbox {sandbox.sandbox_id} is being paused: .*the process ends.*", error["message"])


async def test_concurrent_requests_wake_once(server: Server) -> None:
    """Twenty requests of an SDK to a paused sandbox are all answered, by one start."""
    sandbox = await AsyncSandbox.create("base", timeout=600, lifecycle=_WAKES, **server.sdk)
    try:
        await sandbox.files.write("/tmp/x", "x")
        await sandbox.pause()
        done = await asyncio.gather(*(sandbox.commands.run(f"echo {number}; cat /tmp/x") for number in range(20)))
        assert [one.stdout for one in done] == [f"{number}\nx" for number in range(20)]
        woken = [line for line in server.log.read_text().splitlines() if '"sandbox.woken"' in line and sandbox.sandbox_id in line]
        assert len(woken) == 1
        info = await sandbox.get_info()
        assert info.state.value == "running"
    finally:
        await sandbox.kill()


def test_is_running_wakes(waking: Sandbox) -> None:
    """``is_running`` of one that traffic wakes is true, as the probe wakes it."""
    waking.pause()
    assert waking.is_running()
    assert waking.get_info().state.value == "running"


def test_a_port_wakes(waking: Sandbox, server: Server) -> None:
    """A plain request to a public port wakes the sandbox, and is answered by the program that was frozen."""
    waking.commands.run("cd /tmp && echo served > page && python3 -m http.server 8000", background=True)

    def get() -> bytes | None:
        request = urllib.request.Request(f"{server.url}/page")
        request.add_header("E2b-Sandbox-Id", waking.sandbox_id)
        request.add_header("E2b-Sandbox-Port", "8000")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                body: bytes = answer.read()
                return body
        except urllib.error.HTTPError:
            return None

    eventually(get)
    for _ in range(3):
        waking.pause()
        assert get() == b"served\n"


async def test_an_async_command_is_followed_across_a_pause(server: Server) -> None:
    """The async SDK reconnects to a command and misses nothing."""
    sandbox = await AsyncCodeSandbox.create(timeout=600, **server.sdk)
    try:
        got: list[str] = []
        handle = await sandbox.commands.run(
            "for i in $(seq 0 199); do echo $i; sleep 0.01; done", background=True, on_stdout=got.append
        )
        await eventually_async(lambda: got)
        await sandbox.pause()
        with pytest.raises(SandboxNotRunningException):
            await handle.wait()
        await sandbox.connect()
        again = await sandbox.commands.connect(handle.pid, on_stdout=got.append)
        await again.wait()
        assert _numbers("".join(got)) == list(range(200))
    finally:
        await sandbox.kill()
