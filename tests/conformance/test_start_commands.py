"""Templates that start something: their sandboxes are ready when it is, and say why when it does not come up."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from e2b import Sandbox as PlainSandbox
from e2b import SandboxException
from e2b_code_interpreter import Sandbox

from cloister.model.template import Template
from framework.server import Server, running_server
from framework.starts import creation_of
from framework.template_store import store_with, variant

pytestmark = [pytest.mark.root, pytest.mark.templates]

START_TIMEOUT_S = 10
SERVE = "echo begun >> begun; sleep 1; exec python3 -m http.server 8000"
ASK = "curl -sf -o /dev/null http://127.0.0.1:8000/"
NOTE = 'env > env; pwd > where; id -un > who; echo "a line $OURS"; echo oops >&2; exec sleep infinity'
TEMPLATES: dict[str, dict[str, Any]] = {
    "serving": {"start_cmd": SERVE, "ready_cmd": ASK},
    "noting": {"start_cmd": NOTE, "ready_cmd": "test -e who", "envs": {"OURS": "t", "PATH": "/opt/own:/usr/bin:/bin"}, "workdir": "/srv"},
    "dying": {"start_cmd": "sleep 0.5; echo out of cheese; exit 3", "ready_cmd": "false"},
    "missing": {"start_cmd": "no-such-program", "ready_cmd": "false"},
    "never": {"start_cmd": "sleep infinity", "ready_cmd": "echo not yet; exit 7"},
    "hanging": {"ready_cmd": "sleep infinity"},
    "passing": {"start_cmd": "echo done > done", "ready_cmd": "test -e done && sleep 1"},
    "unasked": {"start_cmd": "echo begun >> begun; exec sleep infinity"},
    "chatty": {"start_cmd": "yes nothing but words | head -n 100000; touch said; exec sleep infinity", "ready_cmd": "test -e said"},
    "stranger": {"start_cmd": "true", "user": "nobody-here"},
}


def make_template(name: str) -> Template:
    """One of the table; a work directory of its own is the default user's home, unless it says otherwise."""
    changes: dict[str, Any] = {"workdir": "/home/user", **TEMPLATES[name]}
    if changes["workdir"] == "/srv":  # not writable by the default user: what it writes goes to its home
        changes["start_cmd"] = "pwd > ~/where; cd; " + changes["start_cmd"].replace("pwd > where; ", "")
        changes["ready_cmd"] = "test -e ~/who"
    return variant("code-interpreter-v1", name, **changes)


@pytest.fixture(scope="module")
def starting_server(stock_templates: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has these templates."""
    store = store_with(tmp_path_factory.mktemp("start") / "store", *(make_template(name) for name in TEMPLATES))
    with running_server("--store-dir", str(store), "--start-timeout-s", str(START_TIMEOUT_S), "--pool-size", "1") as server:
        yield server


@contextlib.contextmanager
def sandbox_of(server: Server, template: str, **more: Any) -> Iterator[Sandbox]:
    """A sandbox for as long as the block lasts."""
    sandbox = Sandbox.create(template, timeout=120, **more, **server.sdk)
    try:
        yield sandbox
    finally:
        sandbox.kill()


def failure_of(server: Server, template: str) -> str:
    """What the SDK raises for a creation."""
    with pytest.raises(SandboxException) as caught:
        PlainSandbox.create(template, timeout=60, **server.sdk)
    return str(caught.value)


def from_pool(server: Server, template: str) -> Sandbox:
    """A sandbox that was made ahead."""
    for _ in range(60):
        sandbox = Sandbox.create(template, timeout=120, **server.sdk)
        if creation_of(server, sandbox)["made_ahead"]:
            return sandbox
        sandbox.kill()
        time.sleep(1)
    raise AssertionError("no creation was served from the pool")


def test_what_the_template_starts_is_up_when_the_creation_answers(starting_server: Server) -> None:
    """The program serves at the first request, is listed like any process, and outlives what clients do."""
    with sandbox_of(starting_server, "serving") as sandbox:
        url = f"{starting_server.url}/"
        headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8000"}
        assert httpx.get(url, headers=headers).status_code == 200
        listed = [process for process in sandbox.commands.list() if SERVE in process.args]
        assert [(process.cmd, process.args) for process in listed] == [("/bin/bash", ["-l", "-c", SERVE])]
        assert sandbox.run_code("1 + 1").text == "2"
        assert sandbox.files.read("begun") == "begun\n"
        assert sandbox.commands.kill(listed[0].pid)
        with pytest.raises(httpx.HTTPError):
            httpx.get(url, headers=headers).raise_for_status()


def test_it_runs_as_the_default_user_with_the_templates_variables(starting_server: Server) -> None:
    """User, work directory and variables are the template's; a client's variables are not seen by it, nor by the ready command."""
    with sandbox_of(starting_server, "noting", envs={"MINE": "secret"}) as sandbox:
        assert (sandbox.files.read("/home/user/who"), sandbox.files.read("/home/user/where")) == ("user\n", "/srv\n")
        env = sandbox.files.read("/home/user/env").splitlines()
        assert "OURS=t" in env
        assert "PATH=/opt/own:/usr/bin:/bin" in env
        assert f"E2B_SANDBOX_ID={sandbox.sandbox_id}" in env
        assert not [line for line in env if "MINE" in line]
        assert sandbox.commands.run("echo $MINE").stdout == "secret\n"


def entries_of(server: Server, sandbox: Sandbox) -> list[dict[str, Any]]:
    """The sandbox's log."""
    answer = httpx.get(f"{server.url}/v2/sandboxes/{sandbox.sandbox_id}/logs", headers={"X-API-Key": server.api_key}, params={"limit": 1000})
    found: list[dict[str, Any]] = answer.raise_for_status().json()["logs"]
    return found


def test_its_output_is_in_the_sandboxs_log(starting_server: Server) -> None:
    """Lines of both streams, and when it was ready."""
    with sandbox_of(starting_server, "noting") as sandbox:
        entries = entries_of(starting_server, sandbox)
    lines = {(entry["fields"].get("stream"), entry["fields"].get("line")) for entry in entries if entry["fields"]["event"] == "start.output"}
    assert {("stdout", "a line t"), ("stderr", "oops")} <= lines
    assert "start.ready" in [entry["fields"]["event"] for entry in entries]


def test_much_output_does_not_fill_the_log(starting_server: Server) -> None:
    """A flood is some lines and a number, and the other entries stay."""
    with sandbox_of(starting_server, "chatty") as sandbox:
        sandbox.commands.run("pkill -o sleep")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            entries = entries_of(starting_server, sandbox)
            events = [entry["fields"]["event"] for entry in entries]
            if "start.output_dropped" in events:
                break
            time.sleep(0.5)
    assert 100 <= events.count("start.output") <= 300
    dropped = sum(int(entry["fields"]["lines"]) for entry in entries if entry["fields"]["event"] == "start.output_dropped")
    assert dropped + events.count("start.output") == 100_000
    assert "sandbox.created" in events


def test_a_start_command_that_died_is_told_at_once(starting_server: Server) -> None:
    """Status and last output, long before the time is over."""
    began = time.monotonic()
    said = failure_of(starting_server, "dying")
    assert "the start command 'sleep 0.5; echo out of cheese; exit 3' ended before the sandbox was ready: exit status 3" in said
    assert "out of cheese" in said
    said = failure_of(starting_server, "missing")
    assert "exit status 127" in said
    assert "no-such-program: command not found" in said
    assert time.monotonic() - began < START_TIMEOUT_S


def test_a_ready_command_that_never_succeeds_is_told(starting_server: Server) -> None:
    """How often it was run, its status and what it printed last; one that does not end is named too."""
    said = failure_of(starting_server, "never")
    assert f"the ready command 'echo not yet; exit 7' did not succeed within {START_TIMEOUT_S} s: it was run" in said
    assert "exit status 7" in said
    assert "not yet" in said
    assert f"the ready command 'sleep infinity' did not succeed within {START_TIMEOUT_S} s: it did not end" in failure_of(
        starting_server, "hanging"
    )
    assert "nobody-here" in failure_of(starting_server, "stranger")


def test_a_start_command_may_end_well(starting_server: Server) -> None:
    """Status 0 is fine, before the sandbox is ready and after; without a ready command nothing is waited for."""
    with sandbox_of(starting_server, "passing") as sandbox:
        assert sandbox.files.read("done") == "done\n"
    with sandbox_of(starting_server, "unasked") as sandbox:
        assert [process.args[-1] for process in sandbox.commands.list()] == [TEMPLATES["unasked"]["start_cmd"]]


def test_an_agent_that_comes_back_starts_nothing_again(starting_server: Server) -> None:
    """The command is run once in the sandbox's life, and what it started lives on without the agent that started it."""
    with sandbox_of(starting_server, "unasked") as sandbox:
        before = sandbox.commands.run("pgrep -f agent/main.py", user="root").stdout
        with contextlib.suppress(SandboxException, httpx.HTTPError):
            sandbox.commands.run("pkill -9 -f agent/main.py", user="root")
        deadline = time.monotonic() + 30
        after = before
        while after == before and time.monotonic() < deadline:
            time.sleep(0.3)
            with contextlib.suppress(SandboxException, httpx.HTTPError):
                after = sandbox.commands.run("pgrep -o -f agent/main.py", user="root").stdout
        assert after != before
        time.sleep(1)
        assert sandbox.files.read("begun") == "begun\n"
        assert sandbox.commands.run("pgrep -c -f '^sleep infinity'").stdout == "1\n"


def test_a_creation_from_the_pool_does_not_wait(starting_server: Server) -> None:
    """A slow start command has started ahead, once, without knowledge of the client."""
    sandbox = from_pool(starting_server, "serving")
    entry = creation_of(starting_server, sandbox)
    asked_at = dt.datetime.fromisoformat(entry["timestamp"]).timestamp() - entry["seconds"]
    assert float(sandbox.commands.run("stat -c %.9Y begun").stdout) < asked_at, entry
    assert sandbox.files.read("begun") == "begun\n"
    assert sandbox.commands.run(ASK).exit_code == 0
    sandbox.kill()


def test_nothing_that_had_the_internet_is_given_to_one_without(starting_server: Server) -> None:
    """A creation without internet is never served from the pool where the template starts something."""
    from_pool(starting_server, "serving").kill()
    for _ in range(5):
        time.sleep(2)
        with sandbox_of(starting_server, "serving", allow_internet_access=False) as sandbox:
            assert not creation_of(starting_server, sandbox)["made_ahead"]


def test_creations_that_never_end_hold_up_nobody(starting_server: Server) -> None:
    """More of them than the supervisor has threads, and another template's creation, run and kill are as quick as ever."""
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        failing = [pool.submit(failure_of, starting_server, "never") for _ in range(24)]
        time.sleep(2)
        began = time.monotonic()
        with sandbox_of(starting_server, "code-interpreter-v1") as sandbox:
            assert sandbox.run_code("1 + 1").text == "2"
        took_s = time.monotonic() - began
        assert all("did not succeed" in future.result() for future in failing)
    assert took_s < START_TIMEOUT_S / 2


def test_log_of_the_server_names_what_cannot_be_made_ahead(starting_server: Server) -> None:
    """The operator sees why the pool has none."""
    lines = [json.loads(line) for line in starting_server.log.read_text().splitlines() if "pool.not_filled" in line]
    assert any("did not succeed" in line["error"] or "ended before" in line["error"] for line in lines)
