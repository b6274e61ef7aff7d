"""Paused sandboxes whose memory a server writes to disk by itself: they go on after a resume, also of another supervisor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from e2b_code_interpreter import Sandbox

from framework.inside import python
from framework.server import Server, running_server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def server(criu: None) -> Iterator[Server]:
    """A server that writes memory to disk after a second."""
    with running_server("--checkpoint", "auto", "--paused-to-disk-s", "1", "--on-stop", "pause") as running:
        eventually(lambda: "checkpoint.works" in running.log.read_text(), 60)
        yield running


def made(server: Server) -> Sandbox:
    """A sandbox with so much memory that it is worth moving."""
    sandbox = Sandbox.create(timeout=3600, **server.sdk)
    python(sandbox, "n = 41; data = bytearray(range(256)) * 200_000")
    return sandbox


def entry_of(server: Server, sandbox: Sandbox) -> dict[str, Any]:
    """Its entry in the journal."""
    entry: dict[str, Any] = json.loads((server.data_dir / "node" / "sandboxes" / sandbox.sandbox_id / "record.json").read_text())
    return entry


def on_disk(server: Server, sandbox: Sandbox) -> bool:
    """Whether its memory is on disk, and it has no process any more."""
    entry = entry_of(server, sandbox)
    return entry["record"]["pause"]["kind"] == "checkpoint" and "pid" not in entry["runtime"]


def test_memory_moves_to_disk_and_back(server: Server) -> None:
    """Twice: the kernel has its variables, a command of before goes on, and the image is gone while the sandbox runs."""
    sandbox = made(server)
    python(sandbox, "boot = open('/proc/sys/kernel/random/boot_id').read()")
    command = sandbox.commands.run("read x; echo got $x", background=True, stdin=True)
    for turn in range(2):
        sandbox.pause()
        eventually(lambda: on_disk(server, sandbox), 60)
        again = Sandbox.connect(sandbox.sandbox_id, timeout=3600, **server.sdk)
        ask = f"print(n + {turn}, sum(data), open('/proc/sys/kernel/random/boot_id').read() == boot)"
        assert python(again, ask) == f"{41 + turn} 6528000000 True"
        assert not (server.data_dir / "node" / "sandboxes" / sandbox.sandbox_id / "memory").exists()
    again.commands.send_stdin(command.pid, "it\n")
    assert again.commands.connect(command.pid).wait().stdout == "got it\n"
    again.kill()


def test_memory_on_disk_survives_the_supervisor(server: Server) -> None:
    """A supervisor that dies and comes back resumes it with its memory."""
    sandbox = made(server)
    sandbox.pause()
    eventually(lambda: on_disk(server, sandbox), 60)
    server.kill_child("node")
    again = Sandbox.connect(sandbox.sandbox_id, timeout=3600, **server.sdk)
    assert python(again, "print(n + 1)") == "42"
    again.kill()


def test_a_sandbox_that_cannot_be_saved_stays_in_memory(server: Server) -> None:
    """The log says why, and it goes on as it was."""
    sandbox = made(server)
    python(sandbox, "import ctypes; assert ctypes.CDLL(None).shmget(77, 4096, 0o1600) >= 0")
    sandbox.pause()
    eventually(lambda: any(sandbox.sandbox_id in line and "System V" in line for line in server.log.read_text().splitlines()), 60)
    assert entry_of(server, sandbox)["record"]["pause"]["kind"] == "frozen"
    assert python(Sandbox.connect(sandbox.sandbox_id, timeout=3600, **server.sdk), "print(n + 1)") == "42"
    sandbox.kill()


def test_memory_can_be_given_up(server: Server) -> None:
    """A resume without memory starts anew on the disk; and a kill of a paused one leaves nothing."""
    sandbox = made(server)
    python(sandbox, "open('/root/kept', 'w').write('yes')")
    sandbox.pause()
    eventually(lambda: on_disk(server, sandbox), 60)
    again = Sandbox.connect(sandbox.sandbox_id, timeout=3600, on_resume="reboot", **server.sdk)
    assert python(again, "print('n' in globals(), open('/root/kept').read())") == "False yes"
    again.pause()
    assert Sandbox.kill(sandbox.sandbox_id, **server.sdk)
    eventually(lambda: not (server.data_dir / "node" / "sandboxes" / sandbox.sandbox_id).exists())
