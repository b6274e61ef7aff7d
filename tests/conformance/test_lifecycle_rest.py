"""Pauses and resumes over plain HTTP: statuses, bodies and words that SDKs build on, state by state."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cloister.errors import NoCapacityError
from cloister.nodewire.requests import ResumeSandbox
from framework.control_plane import ControlPlane, running_control_plane
from framework.http import Answer, call
from framework.requests import ask, create, echo, sandbox, to
from framework.waiting import eventually

pytestmark = pytest.mark.root

NOT_FOUND = "doesn't exist or you don't have access to it"
LIFETIMES = [("timeout", {"timeout": 60}), ("timeout", {"timeout": 0}), ("refreshes", {"duration": 60})]


def act(plane: ControlPlane, sandbox_id: str, verb: str, body: Any = None, *, version: str = "") -> Answer:
    """``POST /sandboxes/{id}/{verb}``."""
    return ask(plane, "POST", f"{version}/sandboxes/{sandbox_id}/{verb}", body)


def detail(plane: ControlPlane, sandbox_id: str) -> dict[str, Any]:
    """``GET /sandboxes/{id}``."""
    answer = ask(plane, "GET", f"/sandboxes/{sandbox_id}")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


def paused(plane: ControlPlane, **fields: Any) -> str:
    """The id of a paused sandbox."""
    sandbox_id: str = create(plane, **fields)["sandboxID"]
    assert act(plane, sandbox_id, "pause").status == 204
    return sandbox_id


def ids(answer: Answer) -> list[str]:
    """The ids of a list, in order."""
    assert answer.status == 200, answer.body
    return [one["sandboxID"] for one in answer.json()]


def events(plane: ControlPlane, sandbox_id: str) -> list[str]:
    """What the sandbox's log says of its life."""
    entries = ask(plane, "GET", f"/v2/sandboxes/{sandbox_id}/logs").json()["logs"]
    return [entry["fields"]["event"] for entry in entries if entry["fields"]["logger"] == "api"]


def seconds_left(shown: dict[str, Any]) -> float:
    """The lifetime that is left."""
    return (datetime.fromisoformat(shown["endAt"]) - datetime.now().astimezone()).total_seconds()


def at_once(plane: ControlPlane, count: int, work: Callable[[], Answer]) -> list[Answer]:
    """The results of calls of which all have come before the node has finished the first one's work."""
    with ThreadPoolExecutor(count) as threads, plane.node.hold.held():
        calls = [threads.submit(work) for _ in range(count)]
        others_are_served(plane)
    return [one.result() for one in calls]


def others_are_served(plane: ControlPlane) -> None:
    """Some requests are answered, before which the server has taken those that were made earlier."""
    for _ in range(25):
        assert ask(plane, "GET", "/sandboxes").status == 200


def test_pause_and_resume(control_plane: ControlPlane) -> None:
    """Id, template, alias, tokens, metadata and network survive; a paused sandbox says so, with its end and no domain."""
    created = create(control_plane, timeout=600, metadata={"a": "b"}, network={"allowPublicTraffic": False}, allow_internet_access=False)
    sandbox_id = created["sandboxID"]
    before = detail(control_plane, sandbox_id)
    assert act(control_plane, f"{sandbox_id}-cloister", "pause", {}).status == 204
    shown = detail(control_plane, sandbox_id)
    assert {name for name in shown if shown[name] != before.get(name)} == {"state", "endAt", "domain", "pauseMode"}
    assert (shown["state"], shown["domain"], shown["pauseMode"]) == ("paused", None, "full")
    assert -60 < seconds_left(shown) <= 0
    answer = act(control_plane, sandbox_id, "resume", {"timeout": 100})
    assert answer.status == 201
    assert answer.json() == created
    shown = detail(control_plane, sandbox_id)
    assert (shown["state"], shown["metadata"]) == ("running", {"a": "b"})
    assert shown["startedAt"] > before["startedAt"]
    assert 90 < seconds_left(shown) <= 100
    assert "pauseMode" not in shown


def test_defaults_of_the_resuming_calls(control_plane: ControlPlane) -> None:
    """A resume lasts 15 s, a connect of version 2 300 s; version 1 must say."""
    for verb, version, seconds in (("resume", "", 15), ("connect", "/v2", 300)):
        sandbox_id = paused(control_plane)
        assert act(control_plane, sandbox_id, verb, version=version).status == 201
        assert seconds - 10 < seconds_left(detail(control_plane, sandbox_id)) <= seconds
    assert act(control_plane, paused(control_plane), "connect", {}).status == 400


@pytest.mark.parametrize(
    ("verb", "body", "words"),
    [
        ("resume", {"timeout": 0}, "Timeout must be greater than 0"),
        ("resume", {"timeout": -1}, "negative"),
        ("connect", {"timeout": -1}, "negative"),
        ("timeout", {"timeout": -1}, "negative"),
        ("resume", {"timeout": 72 * 3600}, "longer than this server allows"),
        ("connect", {"timeout": 72 * 3600}, "longer than this server allows"),
        ("timeout", {"timeout": 72 * 3600}, "longer than this server allows"),
        ("pause", {"memory": "no"}, "memory must be true or false"),
        ("pause", {"keepAlive": True}, "unknown field: keepAlive"),
        ("resume", {"autoPause": 1}, "autoPause must be true or false"),
    ],
)
def test_bad_bodies(control_plane: ControlPlane, verb: str, body: Any, words: str) -> None:
    """They are 400 with the field's name, for an unknown id too."""
    for sandbox_id in ("a" * 20, create(control_plane)["sandboxID"]):
        answer = act(control_plane, sandbox_id, verb, body)
        assert (answer.status, answer.json()["code"]) == (400, 400)
        assert words in answer.json()["message"]


@pytest.mark.parametrize("path", ["a-b-c", "A" * 20, "a_b", "-a", "a-"])
def test_bad_ids(control_plane: ControlPlane, path: str) -> None:
    """A path that can be no id is 400."""
    for method, rest in (("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume")):
        assert ask(control_plane, method, f"/sandboxes/{path}{rest}").status == 400


def test_concurrent_calls(control_plane: ControlPlane) -> None:
    """Five pauses at once are all 204 and one more is 409; five resumes are all 201, five connects 200 or 201."""
    sandbox_id = create(control_plane)["sandboxID"]
    answers = at_once(control_plane, 5, lambda: act(control_plane, sandbox_id, "pause"))
    assert [answer.status for answer in answers] == [204] * 5
    assert act(control_plane, sandbox_id, "pause").status == 409
    answers = at_once(control_plane, 5, lambda: act(control_plane, sandbox_id, "resume", {"timeout": 60}))
    assert [answer.status for answer in answers] == [201] * 5
    assert act(control_plane, sandbox_id, "resume").status == 409
    assert act(control_plane, sandbox_id, "pause").status == 204
    answers = at_once(control_plane, 5, lambda: act(control_plane, sandbox_id, "connect", {"timeout": 60}, version="/v2"))
    assert {answer.status for answer in answers} <= {200, 201}
    assert detail(control_plane, sandbox_id)["state"] == "running"
    assert (control_plane.node.pauses, control_plane.node.resumes) == (2, 2)


def test_calls_while_pausing(control_plane: ControlPlane) -> None:
    """While it is being paused, GET and lists have the sandbox as paused, lifetimes are 409, and a resume waits."""
    sandbox_id = create(control_plane)["sandboxID"]
    with ThreadPoolExecutor(2) as threads, control_plane.node.hold.held():
        pausing = threads.submit(act, control_plane, sandbox_id, "pause")
        shown = eventually(lambda: found if (found := detail(control_plane, sandbox_id))["state"] == "paused" else None)
        assert "pauseMode" not in shown
        assert ids(ask(control_plane, "GET", "/v2/sandboxes?state=paused,running")) == [sandbox_id]
        assert ids(ask(control_plane, "GET", "/v2/sandboxes?state=paused")) == [sandbox_id]
        for verb, body in LIFETIMES:
            assert act(control_plane, sandbox_id, verb, body).status == 409
        resuming = threads.submit(act, control_plane, sandbox_id, "resume")
        others_are_served(control_plane)
        assert not resuming.done()
    assert (pausing.result().status, resuming.result().status) == (204, 201)


def test_calls_while_paused(control_plane: ControlPlane) -> None:
    """Its lifetime and its disk are not found, metrics and logs are read, a connect of any version resumes it."""
    sandbox_id = paused(control_plane)
    for verb, body in LIFETIMES:
        answer = act(control_plane, sandbox_id, verb, body)
        assert answer.status == 404
        assert NOT_FOUND in answer.json()["message"]
    for path in (f"/sandboxes/{sandbox_id}/metrics", f"/sandboxes/metrics?sandbox_ids={sandbox_id}"):
        assert ask(control_plane, "GET", path).status == 200
    assert events(control_plane, sandbox_id) == ["sandbox.created", "sandbox.paused"]
    assert act(control_plane, sandbox_id, "connect", {"timeout": 60}).status == 201
    assert act(control_plane, sandbox_id, "connect", {"timeout": 60}).status == 200
    assert events(control_plane, sandbox_id) == ["sandbox.created", "sandbox.paused", "sandbox.resumed"]


def test_kill(control_plane: ControlPlane) -> None:
    """A sandbox can be killed in any state; then all calls find none."""
    for verb in ("nothing", "pause", "resume"):
        sandbox_id = create(control_plane)["sandboxID"] if verb == "pause" else paused(control_plane)
        with ThreadPoolExecutor(1) as threads, control_plane.node.hold.held():
            if verb != "nothing":
                calls = control_plane.node.pauses + control_plane.node.resumes
                changing = threads.submit(act, control_plane, sandbox_id, verb)
                eventually(lambda: control_plane.node.pauses + control_plane.node.resumes > calls)  # noqa: B023 - called at once
            assert ask(control_plane, "DELETE", f"/sandboxes/{sandbox_id}").status == 204
            for call_of_gone in ("pause", "resume", "fork"):
                answer = act(control_plane, sandbox_id, call_of_gone)
                assert (answer.status, NOT_FOUND in answer.json()["message"]) == (404, True)
            assert act(control_plane, sandbox_id, "connect", {"timeout": 10}).status == 404
            assert ask(control_plane, "DELETE", f"/sandboxes/{sandbox_id}").status == 404
        if verb != "nothing":
            assert changing.result().status == 404
    assert control_plane.node.sandboxes == {}


def test_connect_and_lifetimes(control_plane: ControlPlane) -> None:
    """A connect for 10 s leaves a longer end, one for 321 s extends it; a refresh never shortens, a time-out does."""
    sandbox_id = create(control_plane, timeout=100)["sandboxID"]
    before = detail(control_plane, sandbox_id)["endAt"]
    assert act(control_plane, sandbox_id, "connect", {"timeout": 10}).status == 200
    assert act(control_plane, sandbox_id, "refreshes", {"duration": 10}).status == 204
    assert detail(control_plane, sandbox_id)["endAt"] == before
    assert act(control_plane, sandbox_id, "connect", {"timeout": 321}).status == 200
    assert 310 < seconds_left(detail(control_plane, sandbox_id)) <= 321
    assert act(control_plane, sandbox_id, "timeout", {"timeout": 10}).status == 204
    assert seconds_left(detail(control_plane, sandbox_id)) <= 10


def test_failed_changes(control_plane: ControlPlane) -> None:
    """Without room the answer is 503, and the sandbox is as before; a start's error has the published words."""
    sandbox_id = create(control_plane)["sandboxID"]
    before = detail(control_plane, sandbox_id)
    control_plane.node.pause_fault = control_plane.node.resume_fault = control_plane.node.create_fault = NoCapacityError("no memory")
    assert act(control_plane, sandbox_id, "pause").status == 503
    assert detail(control_plane, sandbox_id) == before
    control_plane.node.pause_fault = None
    assert act(control_plane, sandbox_id, "pause").status == 204
    created = ask(control_plane, "POST", "/v2/sandboxes", {"templateID": "base"})
    for answer in (act(control_plane, sandbox_id, "resume"), act(control_plane, sandbox_id, "connect", {"timeout": 9}), created):
        assert answer.status == 503
        assert answer.json()["message"].startswith("Failed to place sandbox")
    assert detail(control_plane, sandbox_id)["state"] == "paused"
    control_plane.node.resume_fault = None
    assert act(control_plane, sandbox_id, "resume").status == 201


def test_silent_agent(control_plane: ControlPlane) -> None:
    """It stops a strict pause and one of files; a plain one marks the sandbox, which then needs a reboot."""
    sandbox_id, inside = sandbox(control_plane)

    async def silence(_request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    agent, inside.agent = inside.agent, silence
    for body in ({"requireHealthyGuest": True}, {"memory": False}):
        answer = act(control_plane, sandbox_id, "pause", body)
        assert (answer.status, answer.headers["Should-Retry"]) == (503, "false")
        assert detail(control_plane, sandbox_id)["state"] == "running"
    assert act(control_plane, sandbox_id, "pause").status == 204
    inside.agent = agent
    assert detail(control_plane, sandbox_id)["envdUnresponsiveAtPause"] is True
    assert ask(control_plane, "GET", "/v2/sandboxes").json()[0]["envdUnresponsiveAtPause"] is True
    for verb in ("resume", "connect"):
        answer = act(control_plane, sandbox_id, verb, {"timeout": 10})
        assert (answer.status, answer.json()["error_code"]) == (409, "sandbox_snapshot_guest_agent_unresponsive")
    assert act(control_plane, sandbox_id, "connect", {"timeout": 10, "memory": False}).status == 201
    assert "envdUnresponsiveAtPause" not in detail(control_plane, sandbox_id)
    assert act(control_plane, sandbox_id, "pause", {"requireHealthyGuest": True}).status == 204
    assert "envdUnresponsiveAtPause" not in detail(control_plane, sandbox_id)


def test_kinds(control_plane: ControlPlane) -> None:
    """A pause of files is shown as such; a reboot does not join a start with memory, and is refused with its code."""
    sandbox_id = create(control_plane)["sandboxID"]
    assert act(control_plane, sandbox_id, "pause", {"memory": False}).status == 204
    assert detail(control_plane, sandbox_id)["pauseMode"] == "filesystem"
    assert act(control_plane, sandbox_id, "resume", {"memory": True}).status == 201
    assert act(control_plane, sandbox_id, "pause").status == 204
    with ThreadPoolExecutor(1) as threads, control_plane.node.hold.held():
        resuming = threads.submit(act, control_plane, sandbox_id, "resume")
        eventually(lambda: control_plane.node.resumes == 2)
        answer = act(control_plane, sandbox_id, "connect", {"timeout": 10, "memory": False})
        assert (answer.status, answer.json()["error_code"]) == (409, "sandbox_start_in_flight")
    assert resuming.result().status == 201


def test_quotas(tmp_path: Path) -> None:
    """Without room for a running or a paused sandbox the answer is 429, and nothing changes."""
    with running_control_plane(tmp_path, max_sandboxes_per_team=1, max_paused_per_team=2) as plane:
        first = paused(plane)
        second = create(plane)["sandboxID"]
        for verb in ("resume", "connect"):
            answer = act(plane, first, verb, {"timeout": 10})
            assert (answer.status, answer.headers["Should-Retry"]) == (429, "false")
        assert detail(plane, first)["state"] == "paused"
        assert act(plane, second, "pause").status == 204
        third = create(plane)["sandboxID"]
        answer = act(plane, third, "pause")
        assert (answer.status, "max_paused_per_team" in answer.json()["message"]) == (429, True)
        assert detail(plane, third)["state"] == "running"
        assert ask(plane, "DELETE", f"/sandboxes/{third}").status == 204
        assert ask(plane, "POST", "/v2/sandboxes", {"templateID": "base", "autoPause": True}).status == 429
        assert ask(plane, "DELETE", f"/sandboxes/{second}").status == 204
        create(plane, autoPause=True)


@pytest.mark.parametrize(
    ("fields", "lifecycle", "mode"),
    [
        ({}, {"autoResume": False, "onTimeout": "kill"}, None),
        ({"autoPause": True}, {"autoResume": False, "onTimeout": "pause"}, "full"),
        ({"autoPause": True, "autoPauseMemory": False}, {"autoResume": False, "onTimeout": "pause"}, "filesystem"),
        ({"autoPause": True, "autoResume": {"enabled": True}}, {"autoResume": True, "onTimeout": "pause"}, "full"),
        ({"autoResume": {"enabled": True}}, {"autoResume": True, "onTimeout": "kill"}, None),
    ],
)
def test_end_of_the_lifetime(control_plane: ControlPlane, fields: dict[str, Any], lifecycle: dict[str, Any], mode: str | None) -> None:
    """At its deadline and by the time-out 0, a sandbox is paused or killed as its creation says."""
    sandbox_id = create(control_plane, timeout=600, **fields)["sandboxID"]
    assert detail(control_plane, sandbox_id)["lifecycle"] == lifecycle
    assert act(control_plane, sandbox_id, "timeout", {"timeout": 0}).status == 204
    if mode is None:
        assert ask(control_plane, "GET", f"/sandboxes/{sandbox_id}").status == 404
        return
    shown = detail(control_plane, sandbox_id)
    assert (shown["state"], shown["pauseMode"], shown["lifecycle"]) == ("paused", mode, lifecycle)
    assert act(control_plane, sandbox_id, "connect", {"timeout": 1}).status == 201
    shown = eventually(lambda: found if "pauseMode" in (found := detail(control_plane, sandbox_id)) else None)
    assert (shown["state"], shown["pauseMode"]) == ("paused", mode)
    assert act(control_plane, sandbox_id, "resume", {"timeout": 60}).status == 201
    assert act(control_plane, sandbox_id, "timeout", {"timeout": 0}).status == 204
    assert detail(control_plane, sandbox_id)["state"] == "paused"


def test_auto_pause_of_a_resume(control_plane: ControlPlane) -> None:
    """It replaces the creation's choice."""
    sandbox_id = paused(control_plane)
    assert act(control_plane, sandbox_id, "resume", {"autoPause": True}).status == 201
    assert detail(control_plane, sandbox_id)["lifecycle"] == {"autoResume": False, "onTimeout": "pause"}


@pytest.mark.parametrize(("timeout_s", "run_s"), [(20, 300), (420, 420)])
def test_auto_resume(control_plane: ControlPlane, timeout_s: int, run_s: int) -> None:
    """Requests wake it by one start, all are answered, and it runs for its creation's time."""
    sandbox_id, inside = sandbox(control_plane, timeout=timeout_s, autoResume={"enabled": True})
    control_plane.run(lambda: inside.serve(8080, echo))
    assert act(control_plane, sandbox_id, "timeout", {"timeout": 600}).status == 204
    assert act(control_plane, sandbox_id, "pause").status == 204
    answers = at_once(control_plane, 5, lambda: call(control_plane.url, "POST", "/x", body=b"abc", headers=to(sandbox_id)))
    assert [(answer.status, answer.json()["length"]) for answer in answers] == [(200, 3)] * 5
    assert control_plane.node.resumes == 1
    assert run_s - 20 < seconds_left(detail(control_plane, sandbox_id)) <= run_s


def test_what_traffic_does_not_wake(control_plane: ControlPlane) -> None:
    """A sandbox without the flag, and one that keeps its files only."""
    plain = paused(control_plane)
    files = create(control_plane, autoResume={"enabled": True})["sandboxID"]
    assert act(control_plane, files, "pause", {"memory": False}).status == 204
    for sandbox_id in (plain, files):
        answer = call(control_plane.url, "GET", "/", headers=to(sandbox_id))
        assert (answer.status, answer.json()["message"]) == (502, "The sandbox was not found")
    assert control_plane.node.resumes == 0


def test_full_quota_stops_traffic(tmp_path: Path) -> None:
    """A request that may not wake its sandbox because the team's others run is 429."""
    with running_control_plane(tmp_path, max_sandboxes_per_team=1) as plane:
        sandbox_id = paused(plane, autoResume={"enabled": True})
        create(plane)
        assert call(plane.url, "GET", "/", headers=to(sandbox_id)).status == 429
        assert detail(plane, sandbox_id)["state"] == "paused"


def test_lists(control_plane: ControlPlane) -> None:
    """Pages mix running and paused ones by their last start; a resume moves one to the front."""
    made = [create(control_plane, metadata={"n": str(number)})["sandboxID"] for number in range(5)]
    newest_first = made[::-1]
    for number in (0, 2):
        assert act(control_plane, made[number], "pause").status == 204
    assert ids(ask(control_plane, "GET", "/sandboxes")) == [made[4], made[3], made[1]]
    for states, expected in (("running", [4, 3, 1]), ("paused", [2, 0]), ("running,paused", [4, 3, 2, 1, 0])):
        seen: list[str] = []
        token = ""
        while True:
            answer = ask(control_plane, "GET", f"/v2/sandboxes?state={states}&limit=2{token}")
            seen += ids(answer)
            assert answer.headers.get("X-Total-Running") == ("3" if "running" in states else None)
            if (more := answer.headers.get("X-Next-Token")) is None:
                break
            assert base64.urlsafe_b64decode(more).decode().endswith(f"__{seen[-1]}")
            token = f"&nextToken={more}"
        assert seen == [made[number] for number in expected]
    assert ids(ask(control_plane, "GET", "/v2/sandboxes?order=asc")) == made
    assert ids(ask(control_plane, "GET", "/v2/sandboxes?metadata=n%3D2&state=paused")) == [made[2]]
    assert act(control_plane, made[0], "resume").status == 201
    assert ids(ask(control_plane, "GET", "/v2/sandboxes")) == [made[0], *newest_first[:-1]]


def test_api_process_that_dies(control_plane: ControlPlane) -> None:
    """Paused sandboxes stay paused, one that the node paused meanwhile becomes so, and one that it resumed runs."""
    kept, fallen, risen = paused(control_plane), create(control_plane, timeout=600, autoPause=True)["sandboxID"], paused(control_plane)

    async def meanwhile() -> None:
        record = control_plane.node.find(fallen).record
        await control_plane.server.close()
        await control_plane.node._at_deadline(record)
        begun = control_plane.node.find(risen).record
        await control_plane.node.resume(ResumeSandbox(risen, begun.started_at + 900))

    control_plane.run(meanwhile)
    control_plane.restart_api()
    states = {one["sandboxID"]: one["state"] for one in ask(control_plane, "GET", "/v2/sandboxes").json()}
    assert states == {kept: "paused", fallen: "paused", risen: "running"}
    assert act(control_plane, kept, "resume").status == 201


def test_supervisor_that_is_away(control_plane: ControlPlane) -> None:
    """A pause is 503 and leaves the sandbox running; it works when the supervisor is back."""
    sandbox_id = create(control_plane)["sandboxID"]
    control_plane.run(control_plane.node.die)
    answer = act(control_plane, sandbox_id, "pause")
    assert (answer.status, answer.headers["Should-Retry"]) == (503, "true")
    control_plane.run(control_plane.node.start)
    assert detail(control_plane, sandbox_id)["state"] == "running"
    assert act(control_plane, sandbox_id, "pause").status == 204
