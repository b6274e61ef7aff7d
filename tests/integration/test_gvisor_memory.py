"""Sandboxes on gVisor go on with their memory: forks, snapshots and pauses, by the SDK."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2b_code_interpreter import Sandbox

from framework.http import call
from framework.inside import python
from framework.server import Server

pytestmark = [pytest.mark.root]


@pytest.fixture
def sandbox(gvisor_server: Server) -> Iterator[Sandbox]:
    """A sandbox with a variable, a file and a process."""
    made = Sandbox.create(timeout=600, envs={"KEPT": "e"}, **gvisor_server.sdk)
    python(made, "import random, os\nrandom.seed(1); n = 41\nopen('/home/user/f', 'w').write('x')")
    made.commands.run("exec sleep 1000.25", background=True)
    yield made
    made.kill()


def _check_copy(copy: Sandbox) -> list[str]:
    """It goes on where the original stood, as another one; gives numbers that it draws."""
    assert python(copy, "n += 1; print(n, open('/home/user/f').read(), os.environ['KEPT'])").strip() == "42 x e"
    assert copy.commands.run("pgrep -fc 'sleep 1000.2[5]'").stdout.strip() == "1"
    assert copy.commands.run("hostname; cat /etc/hostname").stdout.split() == [copy.sandbox_id] * 2
    return python(copy, "import uuid; print(random.random(), uuid.uuid4(), open('/etc/machine-id').read())").split()


def test_live_forks(gvisor_server: Server, sandbox: Sandbox) -> None:
    """Copies go on with processes, memory and files, and draw other numbers; the original runs on."""
    copies = [Sandbox.connect(one.sandbox_id, **gvisor_server.sdk) for one in sandbox.fork(count=2)]
    drawn = [_check_copy(copy) for copy in copies]
    assert all(len(set(column)) == 2 for column in zip(*drawn, strict=True)), drawn
    assert python(sandbox, "print(n)").strip() == "41"
    (grandchild,) = copies[0].fork()
    assert python(Sandbox.connect(grandchild.sandbox_id, **gvisor_server.sdk), "print(n)").strip() == "42"
    for one in (*copies, Sandbox.connect(grandchild.sandbox_id, **gvisor_server.sdk)):
        one.kill()


def test_snapshots(gvisor_server: Server, sandbox: Sandbox) -> None:
    """Sandboxes of a snapshot with memory go on where it was taken, also when the original is gone."""
    url, headers = gvisor_server.url, {"X-API-KEY": gvisor_server.api_key}
    made = call(url, "POST", f"/sandboxes/{sandbox.sandbox_id}/snapshots", body={}, headers=headers).json()
    assert made["memory"] is True
    sandbox.kill()
    drawn = []
    for _ in range(2):
        copy = Sandbox.create(made["snapshotID"], **gvisor_server.sdk)
        drawn.append(_check_copy(copy))
        copy.kill()
    assert all(len(set(column)) == 2 for column in zip(*drawn, strict=True)), drawn


def test_a_pause_outlives_the_supervisor(gvisor_server: Server, sandbox: Sandbox) -> None:
    """A sandbox that is paused when its supervisor dies stays paused, and then goes on with its memory."""
    sandbox.pause()
    gvisor_server.kill_child("node")
    again = Sandbox.connect(sandbox.sandbox_id, **gvisor_server.sdk)
    assert python(again, "print(n)").strip() == "41"
    assert again.commands.run("pgrep -fc 'sleep 1000.2[5]'").stdout.strip() == "1"
