"""Snapshots and forks with the memory and the processes of a sandbox, by the SDK against whole servers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2b import SandboxException, ServiceBusyException
from e2b_code_interpreter import Sandbox

from cloister.agentclient.post import post
from cloister.errors import CloisterError, PermissionDeniedError
from cloister.ids import new_sandbox_id
from cloister.model.sandbox import SandboxRequest
from cloister.nodewire.requests import SandboxRef
from framework.http import call
from framework.inside import python
from framework.inside import shell as run_shell
from framework.node_peer import NodePeer
from framework.server import Server, running_server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]

DRAWS = """
import random, uuid, ssl, numpy, secrets
print(random.getrandbits(64), numpy.random.randint(2**62), uuid.uuid4(), ssl.RAND_bytes(8).hex(), secrets.token_hex(8))
"""


@pytest.fixture(scope="module")
def saving(criu: None) -> Iterator[Server]:
    """A server whose checkpoints work."""
    with running_server("--checkpoint", "auto") as server:
        peer = NodePeer(server)
        eventually(lambda: "namespace" in peer.call(lambda node: node.ping()).saves_memory, 90)
        yield server


@pytest.fixture
def sandbox(saving: Server) -> Iterator[Sandbox]:
    """A sandbox with a variable, a file that is not stored, and a process."""
    with Sandbox.create(timeout=600, envs={"KEPT": "e"}, **saving.sdk) as made:
        python(made, "import random, numpy, os\nrandom.seed(1); numpy.random.seed(1); n = 41\nopen('/home/user/f', 'w').write('x')")
        made.commands.run("exec sleep 1000.25", background=True)
        yield made


def shell(sandbox: Sandbox, script: str) -> str:
    """What a command prints, as root."""
    return run_shell(sandbox, script).text


def captures_of(server: Server) -> list[Path]:
    """The captures that are on the node."""
    return list((server.data_dir / "node" / "captures").glob("*"))


def agent_answer(server: Server, sandbox_id: str, token: str) -> int:
    """The status of a request to a sandbox's agent that needs the token."""
    dialled = NodePeer(server).call(lambda node: node.dial(SandboxRef(sandbox_id)))
    headers = {"X-Access-Token": token, "Content-Type": "application/json"}
    with post(dialled, "/filesystem.Filesystem/ListDir", '{"path": "/"}', headers, 10) as answer:
        return answer.status


def token_of(sandbox: Sandbox) -> str:
    """The token of its agent."""
    token = sandbox._envd_access_token
    assert isinstance(token, str)
    return token


def test_a_live_fork(saving: Server, sandbox: Sandbox) -> None:
    """Each copy goes on with memory, files and processes of the original, under names, tokens and random numbers of its own."""
    token = token_of(sandbox)
    copies = sandbox.fork(count=3, timeout=300)
    assert [type(one).__name__ for one in copies] == ["Sandbox"] * 3
    copies = [Sandbox.connect(one.sandbox_id, **saving.sdk) for one in copies]
    try:
        for copy in copies:
            assert python(copy, "n += 1; print(n, open('/home/user/f').read(), os.environ['KEPT'])").strip() == "42 x e"
            assert shell(copy, "pgrep -fc 'sleep 1000.2[5]'").strip() == "1"
            assert shell(copy, "hostname").strip() == copy.sandbox_id
            assert copy.sandbox_id in shell(copy, "cat /etc/hostname /etc/hosts")
            assert shell(copy, "cat /run/e2b/.E2B_SANDBOX_ID") == copy.sandbox_id
            assert agent_answer(saving, copy.sandbox_id, token_of(copy)) == 200
            assert agent_answer(saving, copy.sandbox_id, token) == 401
        draws = [python(one, DRAWS).split() for one in (sandbox, *copies)]
        assert all(len({draw[number] for draw in draws}) == 4 for number in range(5)), draws
        assert python(sandbox, "print(n)").strip() == "41"
        (grandchild,) = copies[0].fork()
        assert python(Sandbox.connect(grandchild.sandbox_id, **saving.sdk), "print(n)").strip() == "42"
        grandchild.kill()
    finally:
        for copy in copies:
            copy.kill()


def test_an_agent_that_is_started_again_keeps_the_identity_of_the_copy(saving: Server, sandbox: Sandbox) -> None:
    """It answers to the token of the copy, and not to the original's."""
    token = token_of(sandbox)
    (made,) = sandbox.fork()
    copy = Sandbox.connect(made.sandbox_id, **saving.sdk)
    try:
        agent = shell(copy, "ps axo pid,args | grep 'cloister/[a]gent/main.py' | head -1").split()
        with pytest.raises(SandboxException):
            copy.commands.run(f"kill -9 {agent[0]}; sleep 60", user="root")

        def status(wanted: str) -> int:
            try:
                return agent_answer(saving, copy.sandbox_id, wanted)
            except CloisterError:
                return 0

        assert eventually(lambda: status(token_of(copy)) == 200, 90)
        assert status(token) == 401
        assert copy.commands.run("echo $KEPT").stdout.strip() == "e"
    finally:
        copy.kill()


def test_code_that_runs_goes_on(sandbox: Sandbox) -> None:
    """The original's client gets its result. In the copies, where it has no client, it ends as well, and the next run is told."""
    wait = "import pathlib, time\npathlib.Path('/tmp/begun').touch()\nwhile not pathlib.Path('/tmp/go').exists(): time.sleep(0.01)\n"
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(sandbox.run_code, f"{wait}total = 780; print('all of it')", timeout=300)
        eventually(lambda: sandbox.files.exists("/tmp/begun"))
        for made in sandbox.fork(2):
            assert isinstance(made, Sandbox)
            with made as copy:
                copy.files.write("/tmp/go", "")
                found = copy.run_code("total")
                assert found.text == "780"
                assert "when this copy of the sandbox was made" in "".join(found.logs.stderr)
                assert "all of it" in "".join(found.logs.stderr)
        sandbox.files.write("/tmp/go", "")
        assert running.result().logs.stdout == ["all of it\n"]
    assert sandbox.run_code("total").logs.stderr == []


def test_many_sandboxes_of_a_snapshot(saving: Server, sandbox: Sandbox) -> None:
    """The answer says that it has memory; its sandboxes go on with the processes, also when the original and the server were gone."""
    made = call(saving.url, "POST", f"/sandboxes/{sandbox.sandbox_id}/snapshots", body={}, headers={"X-API-KEY": saving.api_key}).json()
    assert made["memory"] is True
    sandbox.kill()
    saving.kill_child("node")
    saving.kill_child("api")
    for number in range(2):
        with Sandbox.create(made["snapshotID"], timeout=300, envs={"KEPT": str(number)}, **saving.sdk) as one:
            assert python(one, "print(n, __import__('os').environ['KEPT'])").strip() in ("41 e", f"41 {number}")
            assert shell(one, "pgrep -fc 'sleep 1000.2[5]'").strip() == "1"
            assert one.commands.run("echo $KEPT").stdout.strip() == str(number)
            one.pause()
            assert python(Sandbox.connect(one.sandbox_id, **saving.sdk), "print(n)").strip() == "41"
    key = saving.cli("key", "create", "for tests", "--team", "other").stdout.strip()
    stranger = call(saving.url, "POST", "/v2/sandboxes", body={"templateID": made["snapshotID"]}, headers={"X-API-KEY": key})
    assert stranger.status in (403, 404)
    before = captures_of(saving)
    newest = max(before, key=lambda path: path.stat().st_mtime).name
    peer = NodePeer(saving)
    asked = SandboxRequest(sandbox_id=new_sandbox_id(), template=newest, end_at=time.time() + 60, team_id="another")
    with pytest.raises(PermissionDeniedError, match="own team"):  # also if the api process asks, which may be compromised
        peer.call(lambda node: node.create(asked))
    assert Sandbox.delete_snapshot(made["snapshotID"], **saving.sdk)
    eventually(lambda: len(captures_of(saving)) < len(before))


def test_a_supervisor_that_dies_during_a_capture(saving: Server, sandbox: Sandbox) -> None:
    """The sandbox goes on, nothing of the capture is left, and the next one succeeds."""
    python(sandbox, "ballast = os.urandom(200 << 20)")
    node = saving.child("node")
    before = set(captures_of(saving))
    with ThreadPoolExecutor(1) as threads:
        forking = threads.submit(sandbox.fork)
        eventually(lambda: [path for path in captures_of(saving) if path.suffix == ".tmp" and any(path.glob("memory*/*"))])
        os.kill(node, signal.SIGKILL)
        with pytest.raises(SandboxException):
            forking.result()
    assert python(sandbox, "n += 1; print(n, len(ballast))") == f"42 {200 << 20}"
    eventually(lambda: set(captures_of(saving)) <= before)
    peer = NodePeer(saving)
    eventually(lambda: "namespace" in peer.call(lambda node: node.ping()).saves_memory, 90)  # the new supervisor tries it first
    (copy,) = sandbox.fork()
    assert isinstance(copy, Sandbox)
    copy.kill()


def test_processes_that_cannot_be_saved(saving: Server, sandbox: Sandbox) -> None:
    """A fork names the cause, a plain snapshot has the files, and the sandbox goes on."""
    python(sandbox, "import ctypes; shm = ctypes.CDLL(None).shmget(77, 4096, 0o1600); assert shm >= 0")
    with pytest.raises(SandboxException, match="System V"):
        sandbox.fork()
    headers = {"X-API-KEY": saving.api_key}
    made = call(saving.url, "POST", f"/sandboxes/{sandbox.sandbox_id}/snapshots", body={}, headers=headers).json()
    assert made["memory"] is False
    with Sandbox.create(made["snapshotID"], **saving.sdk) as one:
        assert one.files.read("/home/user/f") == "x"
    assert python(sandbox, "print(n)") == "41"


def test_a_connection_that_nobody_has_accepted(saving: Server, sandbox: Sandbox) -> None:
    """It stays the original's; a copy listens as before, without it."""
    python(
        sandbox,
        "import socket\nlistener = socket.create_server(('127.0.0.1', 4567))\n"
        "early = socket.create_connection(('127.0.0.1', 4567)); early.sendall(b'early')",
    )
    (copy,) = sandbox.fork()
    assert isinstance(copy, Sandbox)
    accept = "late = socket.create_connection(('127.0.0.1', 4567)); late.sendall(b'later'); print(listener.accept()[0].recv(5))"
    assert python(copy, accept).strip() == "b'later'"
    assert python(sandbox, accept).strip() == "b'early'"
    copy.kill()


def test_a_save_that_fails_does_no_harm(sandbox: Sandbox) -> None:
    """The saving program gives up in the middle, and the sandbox goes on."""
    python(
        sandbox,
        "import socket\nlistener = socket.socket(socket.AF_UNIX); listener.bind('/tmp/listens'); listener.listen()\n"
        "early = socket.socket(socket.AF_UNIX); early.connect('/tmp/listens'); early.sendall(b'early')",
    )
    with pytest.raises(SandboxException, match="could not dump"):
        sandbox.fork()
    assert python(sandbox, "print(listener.accept()[0].recv(5), n)").strip() == "b'early' 41"


def test_an_image_that_cannot_be_restored(saving: Server, sandbox: Sandbox) -> None:
    """The error says why and what to do, and nothing of the sandbox is left."""
    made = sandbox.create_snapshot()
    newest = max(captures_of(saving), key=lambda path: path.stat().st_mtime)
    manifest = newest / "memory" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(ServiceBusyException, match=r"another release.*take this snapshot again"):
        Sandbox.create(made.snapshot_id, **saving.sdk)
    assert {path.name for path in (saving.data_dir / "node" / "sandboxes").iterdir()} >= {sandbox.sandbox_id}
    assert "0 left over" in saving.census()
    Sandbox.delete_snapshot(made.snapshot_id, **saving.sdk)


def test_javascript_draws_other_numbers(saving: Server, sandbox: Sandbox) -> None:
    """In copies of one context."""
    draw = "[Math.random(), require('crypto').randomUUID()].join()"
    sandbox.run_code(draw, language="javascript")
    copies = [Sandbox.connect(one.sandbox_id, **saving.sdk) for one in sandbox.fork(count=2) if isinstance(one, Sandbox)]
    texts = [one.run_code(f"console.log({draw})", language="javascript").logs.stdout[0].strip().split(",") for one in (sandbox, *copies)]
    assert all(len({text[number] for text in texts}) == 3 for number in range(2)), texts
    for one in copies:
        one.kill()
