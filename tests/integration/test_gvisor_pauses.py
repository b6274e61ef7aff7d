"""Pauses of sandboxes on gVisor, at any time and any number of them: kernel and gofer stand still, and all programs go on afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from e2b_code_interpreter import Sandbox

from cloister.linux.process import start_ticks
from cloister.runtime.gvisor.client import Box, Member
from cloister.runtime.gvisor.halt import Halt
from framework.server import Server
from framework.waiting import eventually

pytestmark = [pytest.mark.root]

_PAUSES = 6
_SWITCHES = 40


@pytest.fixture
def sandbox(gvisor_server: Server) -> Iterator[Sandbox]:
    """One that was just created: nothing ran in it yet but what starts with it."""
    made = Sandbox.create(**gvisor_server.sdk)
    yield made
    made.kill()


def _halt(server: Server, sandbox: Sandbox) -> Halt:
    entry = json.loads((server.data_dir / "node" / "sandboxes" / sandbox.sandbox_id / "record.json").read_text())
    pids = (entry["runtime"]["pid"], entry["runtime"]["gofer"][0])
    kernel, gofer = (Member(pid, start_ticks(pid) or 0) for pid in pids)
    return Halt(Box(kernel, gofer))


def test_many_pauses_right_after_the_creation(gvisor_server: Server, sandbox: Sandbox) -> None:
    """No process is lost: neither the agent, nor the Python kernel, which slept through all pauses, nor one that is started afterwards."""
    for _ in range(_PAUSES):
        sandbox.pause()
        Sandbox.connect(sandbox.sandbox_id, **gvisor_server.sdk)
    assert sandbox.run_code("6 * 7").text == "42"
    for number in range(_SWITCHES):
        assert sandbox.commands.run(f"echo {number}").stdout == f"{number}\n"
    assert sandbox.run_code("6 * 7").text == "42"


def test_a_process_that_sleeps_through_pauses(gvisor_server: Server, sandbox: Sandbox) -> None:
    """It does nothing between two pauses, and has its memory and its files when it is woken."""
    code = "import sys\nheld = bytearray(1 << 20)\nfor line in sys.stdin:\n held += bytes(1 << 20); print(len(held) >> 20, flush=True)\n"
    sandbox.files.write("/home/user/sleeper.py", code)
    said: list[str] = []
    sleeper = sandbox.commands.run("python3 sleeper.py > said.txt", background=True, stdin=True)
    for _ in range(_PAUSES):
        sandbox.pause()
        Sandbox.connect(sandbox.sandbox_id, **gvisor_server.sdk)
    for number in range(2, _PAUSES + 2):
        sandbox.commands.send_stdin(sleeper.pid, "\n")
        said.append(str(number))
        assert eventually(lambda: sandbox.files.read("/home/user/said.txt").split() == said)


def test_kernel_and_gofer_of_a_paused_one_stand_still(gvisor_server: Server, sandbox: Sandbox) -> None:
    """No thread of them runs, and that also outlives the supervisor; a resume lets them go on."""
    halt = _halt(gvisor_server, sandbox)
    assert not halt.is_to_freeze("")
    sandbox.pause()
    assert halt.is_frozen("")
    gvisor_server.kill_child("node")
    assert eventually(lambda: sandbox.get_info().state == "paused")
    assert halt.is_frozen("")
    again = Sandbox.connect(sandbox.sandbox_id, **gvisor_server.sdk)
    assert not halt.is_to_freeze("")
    assert again.run_code("6 * 7").text == "42"
