"""Pause and resume by the official Python SDKs and the REST API: answers by state, lifetimes, lists and errors."""

from __future__ import annotations

import base64
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from e2b import (
    AsyncSandbox,
    GuestUnresponsiveException,
    InvalidArgumentException,
    RateLimitException,
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
    SandboxNotRunningException,
    SandboxQuery,
    SandboxState,
    ServiceBusyException,
    TimeoutException,
)

from framework.http import Answer
from framework.lifecycles import ENVD, KINDS, api, endpoints, inside, lifetime_s, new, state, until
from framework.server import Server, running_server

pytestmark = [pytest.mark.root, pytest.mark.templates]

NOT_FOUND = "doesn't exist or you don't have access to it"
"""Clients look for these words in the message of a 404."""


def at_once(count: int, server: Server, method: str, path: str, body: Any = None) -> list[Answer]:
    """The same request by several clients at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: api(server, method, path, body), range(count)))


def flat(pages: list[list[str]]) -> list[str]:
    """The ids of all pages, in order."""
    return list(itertools.chain.from_iterable(pages))


@pytest.mark.parametrize("kind", KINDS)
def test_calls_of_the_sdk(kind: Any, server: Server) -> None:
    """``pause`` says whether it paused, and ``connect`` resumes the sandbox with its id and token."""
    with new(server, metadata={"of": kind}) as sandbox:
        sandbox.files.write("note", "before")
        before = sandbox.get_info()
        assert sandbox.pause(mode=kind) is True
        assert sandbox.pause(mode=kind) is False
        assert not sandbox.is_running()
        info = sandbox.get_info()
        assert info.state is SandboxState.PAUSED
        kept = ("sandbox_id", "template_id", "name", "metadata", "cpu_count", "memory_mb", "lifecycle", "network", "started_at")
        assert [getattr(info, name) for name in kept] == [getattr(before, name) for name in kept]
        assert info.end_at <= datetime.now(UTC)
        same = sandbox.connect(timeout=200)
        assert same.sandbox_id == sandbox.sandbox_id
        assert sandbox.files.read("note") == "before"  # with the token from before
        assert sandbox.is_running()
        other = Sandbox.connect(sandbox.sandbox_id, timeout=60, **server.sdk)
        assert other.commands.run("cat note").stdout == "before"
        assert Sandbox.pause(sandbox.sandbox_id, mode=kind, api_key=server.api_key, api_url=server.url)
        assert sandbox.kill() is True
        assert sandbox.kill() is False


@pytest.mark.parametrize("kind", KINDS)
async def test_calls_of_the_async_sdk(kind: Any, server: Server) -> None:
    """The asynchronous SDK does the same."""
    sandbox = await AsyncSandbox.create("base", timeout=300, **server.sdk)
    await sandbox.files.write("note", "before")
    assert await sandbox.pause(mode=kind) is True
    assert await sandbox.beta_pause() is False
    assert not await sandbox.is_running()
    assert (await sandbox.get_info()).state is SandboxState.PAUSED
    await sandbox.connect()
    assert await sandbox.files.read("note") == "before"
    other = await AsyncSandbox.connect(sandbox.sandbox_id, **server.sdk)
    assert (await other.commands.run("cat note")).stdout == "before"
    assert await AsyncSandbox.pause(sandbox.sandbox_id, api_key=server.api_key, api_url=server.url)
    assert await sandbox.kill() is True
    assert await sandbox.kill() is False


@pytest.mark.parametrize("memory", [True, False])
def test_the_rest_calls(memory: bool, server: Server) -> None:
    """Pause is 204 and then 409; resume is 201 with id, template and token, and then 409."""
    with new(server) as sandbox:
        path = f"/sandboxes/{sandbox.sandbox_id}"
        before = api(server, "GET", path).json()
        assert api(server, "POST", f"{path}/pause", {"memory": memory}).status == 204
        assert api(server, "POST", f"{path}/pause", {"memory": memory}).status == 409
        paused = api(server, "GET", path).json()
        assert paused["state"] == "paused"
        for name in ("templateID", "alias", "metadata", "envdAccessToken", "cpuCount", "memoryMB", "startedAt", "lifecycle"):
            assert paused.get(name) == before.get(name), name
        resumed = api(server, "POST", f"{path}-ab12cd/resume", {"timeout": 100})
        assert resumed.status == 201, resumed.body
        found = resumed.json()
        assert [found.get(name) for name in ("sandboxID", "templateID", "alias", "envdAccessToken")] == [
            before.get(name) for name in ("sandboxID", "templateID", "alias", "envdAccessToken")
        ]
        token = found["envdAccessToken"]
        sandbox.files.write("note", "x")
        assert inside(server, sandbox.sandbox_id, ENVD, "/files?path=note&username=user", X_Access_Token=token).body == b"x"
        assert inside(server, sandbox.sandbox_id, ENVD, "/files?path=note&username=user").status == 401
        assert api(server, "POST", f"{path}/resume", {"timeout": 100}).status == 409
        assert abs(lifetime_s(server, sandbox.sandbox_id) - 100) < 1


def test_the_body_of_a_pause_and_of_a_resume_may_be_absent(server: Server) -> None:
    """A pause without a body keeps the memory, and a resume without one lasts 15 s."""
    with new(server) as sandbox:
        sandbox.commands.run("sleep 1000", background=True)
        path = f"/sandboxes/{sandbox.sandbox_id}"
        assert api(server, "POST", f"{path}/pause").status == 204
        assert api(server, "POST", f"{path}/resume").status == 201
        assert abs(lifetime_s(server, sandbox.sandbox_id) - 15) < 1
        assert [one.args[-1] for one in sandbox.commands.list()] == ["sleep 1000"]


@pytest.mark.parametrize("memory", [True, False])
def test_many_at_once(memory: bool, server: Server) -> None:
    """Five pauses, resumes or connects at once succeed, but for those that come after the change, which are told so."""
    with new(server) as sandbox:
        path = f"/sandboxes/{sandbox.sandbox_id}"
        for way, version, wanted in (("resume", "", {201, 409}), ("connect", "", {200, 201}), ("connect", "/v2", {200, 201})):
            paused = at_once(5, server, "POST", f"{path}/pause", {"memory": memory})
            assert 204 in {answer.status for answer in paused} <= {204, 409}, [answer.body for answer in paused]
            assert {answer.json()["message"].rpartition(" is ")[2] for answer in paused if answer.status == 409} <= {"paused already"}
            assert state(server, sandbox.sandbox_id) == "paused"
            assert api(server, "POST", f"{path}/pause").status == 409
            resumed = at_once(5, server, "POST", f"{version}{path}/{way}", {"timeout": 100})
            assert 201 in {answer.status for answer in resumed} <= wanted, [answer.body for answer in resumed]
            assert {answer.json()["message"].rpartition(" is ")[2] for answer in resumed if answer.status == 409} <= {"already running"}
            assert state(server, sandbox.sandbox_id) == "running"
            assert sandbox.commands.run("echo here").stdout == "here\n"


@pytest.mark.parametrize("memory", [True, False])
def test_ends(memory: bool, server: Server) -> None:
    """A paused or resumed sandbox can be killed; every later call is 404 in the published words."""
    for is_resumed in (False, True):
        with new(server) as sandbox:
            path = f"/sandboxes/{sandbox.sandbox_id}"
            assert api(server, "POST", f"{path}/pause", {"memory": memory}).status == 204
            if is_resumed:
                assert api(server, "POST", f"{path}/resume").status == 201
            assert api(server, "DELETE", path).status == 204
            for method, call, body in (
                ("POST", "/pause", None),
                ("POST", "/resume", None),
                ("POST", "/connect", {"timeout": 10}),
                ("POST", "/timeout", {"timeout": 10}),
                ("POST", "/refreshes", {"duration": 10}),
                ("POST", "/fork", {}),
                ("POST", "/snapshots", {}),
                ("GET", "", None),
                ("DELETE", "", None),
            ):
                answer = api(server, method, f"{path}{call}", body)
                assert answer.status == 404, (call, answer.body)
                assert NOT_FOUND in answer.json()["message"], (call, answer.body)
            assert inside(server, sandbox.sandbox_id, 8000).status == 502


def test_faults_of_requests(server: Server) -> None:
    """Wrong times and ids are 400, also of an unknown sandbox, and change nothing."""
    with new(server) as sandbox:
        path = f"/sandboxes/{sandbox.sandbox_id}"
        assert api(server, "POST", f"{path}/pause").status == 204
        for where in (path, "/sandboxes/" + "a" * 20):
            for call, body in (
                ("/resume", {"timeout": 0}),
                ("/resume", {"timeout": -1}),
                ("/resume", {"timeout": 10**9}),
                ("/connect", {"timeout": -1}),
                ("/connect", {"timeout": 10**9}),
                ("/connect", {}),
                ("/timeout", {"timeout": -1}),
                ("/pause", {"memory": "yes"}),
            ):
                answer = api(server, "POST", f"{where}{call}", body)
                assert answer.status == 400, (call, body, answer.body)
        assert "Timeout must be greater than 0" in api(server, "POST", f"{path}/resume", {"timeout": 0}).json()["message"]
        for wrong in ("a-b-c", "UPPER" + "a" * 15):
            assert api(server, "POST", f"/sandboxes/{wrong}/pause").status == 400
        assert state(server, sandbox.sandbox_id) == "paused"


def test_a_paused_sandbox_has_no_time_to_change(server: Server) -> None:
    """``set_timeout`` and refreshes are 404, and its time does not run out."""
    with new(server, timeout=2) as sandbox:
        path = f"/sandboxes/{sandbox.sandbox_id}"
        assert sandbox.pause()
        for call, body in (("/timeout", {"timeout": 50}), ("/timeout", {"timeout": 0}), ("/refreshes", {"duration": 50})):
            assert api(server, "POST", f"{path}{call}", body).status == 404
        witness = Sandbox.create("base", timeout=3, **server.sdk)
        until(server, witness.sandbox_id, "gone")  # its end comes after that of the paused one would have
        assert state(server, sandbox.sandbox_id) == "paused"
        sandbox.connect(timeout=60)
        assert sandbox.commands.run("echo here").stdout == "here\n"


def test_connect_never_shortens(server: Server) -> None:
    """``connect`` extends the time of a running sandbox or leaves it; a resume begins a new one."""
    with new(server, timeout=100) as sandbox:
        started_at, end_at = endpoints(server, sandbox.sandbox_id)
        sandbox.connect(timeout=10)
        assert endpoints(server, sandbox.sandbox_id) == (started_at, end_at)
        sandbox.connect(timeout=321)
        assert endpoints(server, sandbox.sandbox_id)[1] > end_at
        sandbox.set_timeout(50)
        assert endpoints(server, sandbox.sandbox_id)[1] < end_at
        assert sandbox.pause()
        sandbox.connect(timeout=30)
        again_at, again_end = endpoints(server, sandbox.sandbox_id)
        assert again_at > started_at
        assert abs((again_end - again_at).total_seconds() - 30) < 1


@pytest.mark.parametrize("memory", [True, False])
def test_it_is_never_missing_from_lists(memory: bool, server: Server) -> None:
    """During pauses and resumes it is always found, by id and in the list, in one of two states."""
    with new(server, metadata={"never": str(memory)}) as sandbox:
        path = f"/sandboxes/{sandbox.sandbox_id}"
        done = threading.Event()
        seen: list[object] = []

        def look() -> None:
            while not done.is_set():
                seen.append(state(server, sandbox.sandbox_id))
                found = api(server, "GET", f"/v2/sandboxes?metadata=never%3D{memory}").json()
                seen.extend([one["state"] for one in found] or ["missing"])

        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(look)
            for _ in range(5):
                assert api(server, "POST", f"{path}/pause", {"memory": memory}).status == 204
                assert api(server, "POST", f"{path}/connect", {"timeout": 100}).status == 201
            done.set()
            looking.result()
        assert set(seen) == {"running", "paused"}


def test_lists(server: Server) -> None:
    """Pages mix running and paused sandboxes, newest run first; the last page has no token."""
    query = "/v2/sandboxes?metadata=list%3Dpauses&limit=2"
    made = [Sandbox.create("base", timeout=300, metadata={"list": "pauses"}, **server.sdk) for _ in range(5)]
    ids = [one.sandbox_id for one in made]

    def pages(more: str = "") -> list[list[str]]:
        found, token = [], ""
        while True:
            answer = api(server, "GET", f"{query}{more}{token}")
            assert answer.status == 200, answer.body
            found.append([one["sandboxID"] for one in answer.json()])
            following = answer.headers.get("X-Next-Token")
            if not following:
                return found
            token = f"&nextToken={following}"

    try:
        for one in made[:2]:
            assert one.pause()
        assert [len(page) for page in pages()] == [2, 2, 1]
        assert flat(pages()) == ids[::-1]
        assert flat(pages("&order=asc")) == ids
        assert flat(pages("&state=paused")) == [ids[1], ids[0]]
        assert flat(pages("&state=running")) == [ids[4], ids[3], ids[2]]
        assert flat(pages("&state=running,paused")) == ids[::-1]
        assert api(server, "GET", query).headers["X-Total-Running"] == "3"
        assert ids[0] not in [one["sandboxID"] for one in api(server, "GET", "/sandboxes").json()]
        listed = Sandbox.list(
            query=SandboxQuery(metadata={"list": "pauses"}, state=[SandboxState.PAUSED]), api_key=server.api_key, api_url=server.url
        ).next_items()
        assert {one.sandbox_id for one in listed} == set(ids[:2])
        assert {one.state for one in listed} == {SandboxState.PAUSED}
        made[0].connect()
        assert flat(pages()) == [ids[0], *ids[:0:-1]]
        for wrong in ("x", base64.urlsafe_b64encode(b"x__y").decode()):
            assert api(server, "GET", f"{query}&nextToken={wrong}").status == 400
        assert api(server, "GET", f"{query}&state=asleep").status == 400
    finally:
        for one in made:
            one.kill()


def test_errors_of_the_sdk(server: Server) -> None:
    """Each call that a paused or killed sandbox does not take raises its own class."""
    with new(server) as sandbox:
        watch = sandbox.files.watch_dir("/home/user")
        assert sandbox.pause()
        for refused in (
            lambda: sandbox.commands.run("true"),
            lambda: sandbox.files.read("note"),
            lambda: sandbox.files.write("note", "x"),
            lambda: sandbox.files.list("/"),
            watch.get_new_events,
        ):
            with pytest.raises(SandboxNotRunningException):
                refused()
        with pytest.raises(SandboxNotFoundException):
            sandbox.set_timeout(60)
        with pytest.raises(SandboxException) as caught:
            sandbox.connect(timeout=10**8)
        assert caught.value.status_code == 400
        with pytest.raises(InvalidArgumentException):
            sandbox.connect(on_resume="sideways")  # type: ignore[arg-type]  # the fault under test
        with pytest.raises(InvalidArgumentException):
            sandbox.pause(mode="half")  # type: ignore[arg-type]  # the fault under test
        assert state(server, sandbox.sandbox_id) == "paused"
    for gone in (sandbox.pause, sandbox.connect, sandbox.get_info, lambda: sandbox.set_timeout(10), sandbox.fork):
        with pytest.raises(SandboxNotFoundException):
            gone()
    lifecycles: list[Any] = [
        {"on_timeout": "kill", "auto_resume": True},
        {"on_timeout": {"action": "pause", "mode": "filesystem"}, "auto_resume": True},
        {"on_timeout": "sleep"},
    ]
    for wrong in lifecycles:
        with pytest.raises(InvalidArgumentException):
            Sandbox.create("base", lifecycle=wrong, **server.sdk)


def test_an_agent_that_does_not_answer(server: Server) -> None:
    """Strict pauses and those of files leave it running; a full one is marked and needs a reboot."""
    with new(server) as sandbox:
        sandbox.files.write("note", "kept")
        sandbox.commands.run("sync")
        with pytest.raises(TimeoutException):
            sandbox.commands.run("pkill -STOP -f agent/main[.]py", user="root", timeout=1)
        refusals: list[Any] = [{"strict": True}, {"mode": "filesystem"}]
        for options in refusals:
            with pytest.raises(ServiceBusyException):
                sandbox.pause(retries=0, **options)
            assert state(server, sandbox.sandbox_id) == "running"
        assert "envdUnresponsiveAtPause" not in api(server, "GET", f"/sandboxes/{sandbox.sandbox_id}").json()
        assert sandbox.pause()
        assert sandbox.get_info().envd_unresponsive_at_pause is True
        with pytest.raises(GuestUnresponsiveException):
            sandbox.connect()
        sandbox.connect(on_resume="reboot")
        assert sandbox.get_info().envd_unresponsive_at_pause is None
        assert sandbox.files.read("note") == "kept"


def test_combinations_that_the_api_refuses(server: Server) -> None:
    """Files only without auto-pause, or with a wake by traffic, are 400; a wake without auto-pause is taken."""
    for fields in (
        {"autoPauseMemory": False},
        {"autoPause": False, "autoPauseMemory": False},
        {"autoPause": True, "autoPauseMemory": False, "autoResume": {"enabled": True}},
    ):
        answer = api(server, "POST", "/v2/sandboxes", {"templateID": "base", **fields})
        assert answer.status == 400, (fields, answer.body)
    answer = api(server, "POST", "/v2/sandboxes", {"templateID": "base", "autoResume": {"enabled": True}})
    assert answer.status == 201, answer.body
    assert api(server, "DELETE", f"/sandboxes/{answer.json()['sandboxID']}").status == 204


def test_quotas(stock_templates: None) -> None:
    """Running and paused sandboxes have quotas of their own; a refused resume or pause changes nothing."""
    with running_server("--max-sandboxes-per-team", "1", "--max-paused-per-team", "1", "--pool-size", "0") as small:
        first = Sandbox.create("base", timeout=300, **small.sdk)
        assert first.pause()
        second = Sandbox.create("base", timeout=300, **small.sdk)
        with pytest.raises(RateLimitException):
            first.connect(retries=0)
        assert state(small, first.sandbox_id) == "paused"
        with pytest.raises(RateLimitException):
            second.pause(retries=0)
        assert second.commands.run("echo runs on").stdout == "runs on\n"
        second.kill()
        first.connect()
        assert first.commands.run("echo back").stdout == "back\n"
        first.kill()
