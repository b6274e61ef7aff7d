"""Forks and snapshots as the official SDKs use them, unmodified, and as the published REST API has them; over a fake node."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from e2b import (
    AsyncSandbox,
    InvalidArgumentException,
    RateLimitException,
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
    ServiceBusyException,
)

from cloister.errors import ConflictError, NoCapacityError
from cloister.model.template import Template
from cloister.nodewire.requests import TakeSnapshot
from framework.control_plane import ControlPlane, running_control_plane
from framework.http import call
from framework.requests import ask, create
from framework.template_requests import other_team
from framework.waiting import eventually

JS = Path(__file__).parent / "js"
FILES: Any = {"api_headers": {"X-Fork-Memory": "false"}}
pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane whose teams may have six sandboxes."""
    with running_control_plane(tmp_path_factory.mktemp("forks") / "data", max_sandboxes_per_team=6) as plane:
        yield plane


@pytest.fixture(autouse=True)
def clean(plane: ControlPlane) -> Iterator[None]:
    """No sandbox and no fault is left by a test."""
    yield
    node = plane.node
    node.snapshot_fault, node.create_fault, node.saves_memory = None, None, ()
    for one in ask(plane, "GET", "/sandboxes").json():
        ask(plane, "DELETE", f"/sandboxes/{one['sandboxID']}")
    node.captures.clear()


def sdk(plane: ControlPlane) -> Any:
    """Keyword arguments that point the Python SDKs at the control plane."""
    return plane.sdk


def fork(plane: ControlPlane, sandbox_id: str, body: Any = None, **headers: str) -> Any:
    """The answer to a fork of files."""
    return ask(plane, "POST", f"/sandboxes/{sandbox_id}/fork", {"memory": False, **(body or {})}, **headers)


# ---- the SDKs ----


def test_python_forks(plane: ControlPlane) -> None:
    """The SDK gets handles that work; by the instance and by the class; ids and tokens are new, the rest is the original's."""
    with Sandbox.create("base", timeout=300, metadata={"a": "b"}, envs={"K": "v"}, **sdk(plane)) as sandbox:
        before = sandbox.get_info()
        copies = sandbox.fork(timeout=60, count=2, **FILES)
        copies += Sandbox.fork(sandbox.sandbox_id, **FILES, **sdk(plane))
        assert all(isinstance(one, Sandbox) for one in copies)
        assert len({one.sandbox_id for one in (sandbox, *copies)}) == 4
        for one in copies:
            assert isinstance(one, Sandbox)
            assert one.is_running()
            info = one.get_info()
            assert (info.template_id, info.name, info.metadata) == (before.template_id, before.name, before.metadata)
            assert plane.node.find(one.sandbox_id).request.access_token != plane.node.find(sandbox.sandbox_id).request.access_token
        assert sandbox.get_info() == before
        assert [capture.sandbox_id for capture in plane.node.captures] == [sandbox.sandbox_id] * 2
        assert Sandbox.list_snapshots(api_key=plane.api_key, api_url=plane.url).next_items() == []


async def test_python_forks_async(plane: ControlPlane) -> None:
    """The asynchronous SDK can do the same, and a copy can be forked."""
    sandbox = await AsyncSandbox.create("base", **sdk(plane))
    (copy,) = await sandbox.fork(**FILES)
    assert isinstance(copy, AsyncSandbox)
    (grandchild,) = await AsyncSandbox.fork(copy.sandbox_id, count=1, **FILES, **sdk(plane))
    assert isinstance(grandchild, AsyncSandbox)
    assert await grandchild.is_running()


def test_python_errors(plane: ControlPlane) -> None:
    """Each fault has the SDK's class for it, and the SDK repeats no fork."""
    with Sandbox.create("base", **sdk(plane)) as sandbox:
        with pytest.raises(SandboxException, match=r"400.*'checkpoint'.*X-Fork-Memory") as refused:
            sandbox.fork()
        assert refused.value.status_code == 400
        for count in (0, 21):
            with pytest.raises(InvalidArgumentException):
                sandbox.fork(count=count, **FILES)
        plane.node.snapshot_fault = NoCapacityError("64 snapshots wait already")
        with pytest.raises(ServiceBusyException, match="wait already"):
            sandbox.fork(**FILES)
        assert len(plane.node.captures) == 1
        plane.node.snapshot_fault = None
        copies = sandbox.fork(count=5, **FILES)  # six places, and one is the original's
        assert [type(one) for one in copies] == [Sandbox] * 5
        more = sandbox.fork(count=2, **FILES)
        assert [type(one) for one in more] == [RateLimitException] * 2
        plane.node.create_fault = NoCapacityError("the host has no memory left")
        for one in copies:
            assert isinstance(one, Sandbox)
            one.kill()
        (busy,) = sandbox.fork(**FILES)
        assert isinstance(busy, ServiceBusyException)
    with pytest.raises(SandboxNotFoundException):
        sandbox.fork(**FILES)
    with pytest.raises(SandboxNotFoundException):
        Sandbox.fork(sandbox.sandbox_id, **sdk(plane))


@pytest.mark.skipif(
    shutil.which("node") is None or not (JS / "node_modules" / "e2b").is_dir(), reason="needs Node and `npm ci` in tests/conformance/js"
)
def test_javascript(plane: ControlPlane) -> None:
    """The JavaScript SDK forks, snapshots and deletes as the Python one does."""
    done = subprocess.run(["node", "forks.mjs"], cwd=JS, env=plane.environ, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert "'checkpoint'" in seen.pop("plain")[1]
    assert "sandboxes using it" in seen.pop("used")[1]
    assert seen.pop("none")[0] == "SandboxError"
    assert seen.pop("gone")[0] == "SandboxNotFoundError"
    assert seen == {
        "copies": [True, True],
        "ids": 3,
        "info": {"metadata": {"a": "b"}, "template": True},
        "running": True,
        "third": True,
        "listed": 0,
        "deleted": [True, False],
    }


# ---- REST ----


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"count": 0}, "count must be between 1 and 100"),
        ({"count": 101}, "count must be between 1 and 100"),
        ({"count": 6}, "count must be lower than the limit"),
        ({"count": "1"}, "count must be"),
        ({"timeout": 0}, "Timeout must be greater than 0"),
        ({"timeout": -1}, "Timeout must be greater than 0"),
        ({"timeout": 10_000_000}, "longer than this server allows"),
        ({"memory": 1}, "memory must be"),
        ({"memory": True}, "checkpoint"),
        ({"keepDisk": True}, "unknown field"),
    ],
)
def test_requests_that_are_refused(plane: ControlPlane, body: dict[str, Any], words: str) -> None:
    """They get 400 before anything is captured, and clients are told not to repeat them."""
    answer = fork(plane, create(plane)["sandboxID"], body)
    assert (answer.status, answer.json()["code"]) == (400, 400)
    assert words in answer.json()["message"]
    assert answer.headers["Should-Retry"] == "false"
    assert plane.node.captures == []


def test_the_order_of_faults(plane: ControlPlane) -> None:
    """A wrong number wins over a missing sandbox, and that over a missing capability."""
    assert fork(plane, "a" * 20, {"count": 0}).status == 400
    assert ask(plane, "POST", f"/sandboxes/{'a' * 20}/fork").status == 404
    assert fork(plane, f"{create(plane)['sandboxID']}-client", {"count": 1}).status == 201


def test_entries_have_one_key_each(plane: ControlPlane) -> None:
    """An entry is a sandbox or an error, never both, and nothing in it is null where the SDKs cannot read null."""
    sandbox_id = create(plane, network={"allowPublicTraffic": False})["sandboxID"]
    create(plane)
    entries = fork(plane, sandbox_id, {"count": 5}).json()
    assert [list(one) for one in entries] == [["sandbox"]] * 4 + [["error"]]
    assert entries[-1]["error"]["code"] == 429
    tokens = {one["sandbox"]["trafficAccessToken"] for one in entries[:-1]}
    assert None not in tokens
    assert len(tokens) == 4
    assert all(isinstance(one["sandbox"]["envdAccessToken"], str) for one in entries[:-1])


def test_copies_keep_the_choices_of_their_original(plane: ControlPlane) -> None:
    """Internet access, network options and metadata are shown, and were sent to the node."""
    made = create(plane, allow_internet_access=False, metadata={"x": "y"}, network={"maskRequestHost": "a.example"})
    before = ask(plane, "GET", f"/sandboxes/{made['sandboxID']}").json()
    (entry,) = fork(plane, made["sandboxID"]).json()
    after = ask(plane, "GET", f"/sandboxes/{entry['sandbox']['sandboxID']}").json()
    own = {"sandboxID", "envdAccessToken", "startedAt", "endAt"}
    assert {name for name in before if before[name] != after[name]} == own
    assert plane.node.find(after["sandboxID"]).request.egress.is_closed
    again = ask(plane, "GET", f"/sandboxes/{made['sandboxID']}").json()
    assert again == before


def test_an_insecure_original_has_insecure_copies(plane: ControlPlane) -> None:
    """No copy has a token if its original has none."""
    made = create(plane, path="/sandboxes")
    (entry,) = fork(plane, made["sandboxID"]).json()
    assert "envdAccessToken" not in entry["sandbox"]


def test_the_header_and_the_field(plane: ControlPlane) -> None:
    """The header asks for files as the field does; the field wins; another value is refused by name."""
    path = f"/sandboxes/{create(plane)['sandboxID']}/fork"
    assert ask(plane, "POST", path, X_Fork_Memory="false").status == 201
    assert ask(plane, "POST", path, {"memory": True}, X_Fork_Memory="false").status == 400
    wrong = ask(plane, "POST", path, X_Fork_Memory="no")
    assert (wrong.status, "X-Fork-Memory" in wrong.json()["message"]) == (400, True)


def test_another_team_cannot_fork_or_run_a_capture(plane: ControlPlane) -> None:
    """The sandbox looks like none; the build of a capture is no template, by any of its ids, for its own team neither."""
    sandbox_id = create(plane)["sandboxID"]
    headers = other_team(plane)
    answer = call(plane.url, "POST", f"/sandboxes/{sandbox_id}/fork", body={"memory": False}, headers=headers)
    assert answer.status == 404
    assert plane.node.captures == []
    assert fork(plane, sandbox_id).status == 201
    (capture,) = plane.node.captures
    for name in (capture.build_id, f"base:{capture.build_id}", f"{capture.template_id}:{capture.build_id}"):
        for who in ({"X-API-KEY": plane.api_key}, headers):
            assert call(plane.url, "POST", "/v2/sandboxes", body={"templateID": name}, headers=who).status in (400, 404)
            assert call(plane.url, "DELETE", f"/templates/{name}", headers=who).status in (403, 404)


def test_a_capture_is_dropped_after_its_last_copy(plane: ControlPlane) -> None:
    """Not before, although the node forgets other builds meanwhile."""
    sandbox_id = create(plane)["sandboxID"]
    copies = [entry["sandbox"]["sandboxID"] for entry in fork(plane, sandbox_id, {"count": 2}).json()]
    (capture,) = plane.node.captures

    def prune() -> bool:
        plane.run(plane.server.builds.garbage.prune)
        return capture.build_id in plane.node.dropped

    for one in copies:
        assert not prune()
        assert ask(plane, "DELETE", f"/sandboxes/{one}").status == 204
    assert eventually(prune)


def test_copies_survive_a_restart_of_the_api_process(plane: ControlPlane) -> None:
    """The new process knows the copies, and keeps the capture for them."""
    (entry,) = fork(plane, create(plane)["sandboxID"]).json()
    plane.restart_api()
    copy = entry["sandbox"]["sandboxID"]
    assert ask(plane, "GET", f"/sandboxes/{copy}").status == 200
    plane.run(plane.server.builds.garbage.prune)
    assert plane.node.captures[-1].build_id not in plane.node.dropped
    assert fork(plane, copy).status == 201


# ---- captures and other operations ----


def test_a_second_capture_conflicts_and_a_kill_waits(plane: ControlPlane) -> None:
    """During a snapshot another one and a fork get 409, a time-out is set, and a kill is answered when the snapshot is whole."""
    sandbox_id = create(plane)["sandboxID"]
    with ThreadPoolExecutor(4) as threads, plane.node.hold.held():
        taking = threads.submit(ask, plane, "POST", f"/sandboxes/{sandbox_id}/snapshots", {"name": "kept"})
        eventually(lambda: plane.node.captures)
        assert ask(plane, "POST", f"/sandboxes/{sandbox_id}/snapshots", {}).status == 409
        assert fork(plane, sandbox_id).status == 409
        assert ask(plane, "POST", f"/sandboxes/{sandbox_id}/timeout", {"timeout": 50}).status == 204
        killing = threads.submit(ask, plane, "DELETE", f"/sandboxes/{sandbox_id}")
        assert ask(plane, "GET", "/sandboxes").status == 200
        assert not killing.done()
    assert (taking.result().status, killing.result().status) == (201, 204)
    assert len(plane.node.captures) == 1
    assert ask(plane, "GET", f"/sandboxes/{sandbox_id}").status == 404
    create(plane, templateID="kept")


def test_a_snapshot_says_that_it_has_no_memory(plane: ControlPlane) -> None:
    """Whether files only were asked for or nothing was said; memory that cannot be had is refused by the capability's name."""
    path = f"/sandboxes/{create(plane)['sandboxID']}/snapshots"
    for body in ({}, {"memory": False}, {"memory": None}):
        answer = ask(plane, "POST", path, body)
        assert (answer.status, answer.json()["memory"]) == (201, False)
    refused = ask(plane, "POST", path, {"memory": True})
    assert (refused.status, "'checkpoint'" in refused.json()["message"]) == (400, True)


def test_memory_is_captured_where_the_node_can(plane: ControlPlane) -> None:
    """Then a plain snapshot or fork has it, the answer says so, and files alone can still be asked for."""
    plane.node.saves_memory = ("fake",)
    sandbox_id = create(plane)["sandboxID"]
    path = f"/sandboxes/{sandbox_id}/snapshots"
    answered = [ask(plane, "POST", path, body).json()["memory"] for body in ({}, {"memory": True}, {"memory": False})]
    assert answered == [True, True, False]
    assert ask(plane, "POST", f"/sandboxes/{sandbox_id}/fork").status == 201
    assert fork(plane, sandbox_id).status == 201
    assert [capture.memory for capture in plane.node.captures] == [True, True, False, True, False]


def test_a_sandbox_whose_memory_cannot_be_saved(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain snapshot has its files, and says so; one that must have memory gets the reason."""
    plane.node.saves_memory = ("fake",)
    take = plane.node.snapshot

    async def refuse(request: TakeSnapshot) -> Template:
        if request.memory:
            raise ConflictError("the sandbox uses System V shared memory")
        return await take(request)

    monkeypatch.setattr(plane.node, "snapshot", refuse)
    path = f"/sandboxes/{create(plane)['sandboxID']}/snapshots"
    answer = ask(plane, "POST", path, {"name": "plain"})
    assert (answer.status, answer.json()["memory"]) == (201, False)
    refused = ask(plane, "POST", path, {"memory": True})
    assert (refused.status, "System V" in refused.json()["message"]) == (409, True)
    create(plane, templateID="plain")


def test_a_snapshot_in_use_is_not_deleted(plane: ControlPlane) -> None:
    """A sandbox of it keeps it; the sandbox that it was made of does not, and its end leaves it."""
    source = create(plane)["sandboxID"]
    made = ask(plane, "POST", f"/sandboxes/{source}/snapshots", {}).json()
    assert ask(plane, "DELETE", f"/sandboxes/{source}").status == 204
    user = create(plane, templateID=made["snapshotID"])["sandboxID"]
    path = "/templates/" + made["snapshotID"].replace(":", "%3A")
    refused = ask(plane, "DELETE", path)
    assert (refused.status, "running or paused sandboxes using it" in refused.json()["message"]) == (400, True)
    (copy,) = fork(plane, user).json()
    assert ask(plane, "DELETE", f"/sandboxes/{user}").status == 204
    assert ask(plane, "DELETE", path).status == 400  # a copy says that it is of the same template
    assert ask(plane, "DELETE", f"/sandboxes/{copy['sandbox']['sandboxID']}").status == 204
    assert ask(plane, "DELETE", path).status == 204
    assert ask(plane, "DELETE", path).status == 404
