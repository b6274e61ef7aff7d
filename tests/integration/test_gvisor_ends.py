"""Sandboxes on gVisor live on without their supervisor, end whole, and come back from a pause."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import CommandExitException, SandboxException
from e2b_code_interpreter import Sandbox

from framework.http import call
from framework.server import Server
from framework.waiting import eventually

pytestmark = [pytest.mark.root]


@pytest.fixture
def sandbox(gvisor_server: Server) -> Iterator[Sandbox]:
    """A sandbox whose Python kernel knows a number."""
    made = Sandbox.create("base", **gvisor_server.sdk)
    made.commands.run("echo kept > /home/user/kept.txt")
    yield made
    made.kill()


def _processes(server: Server, sandbox: Sandbox) -> tuple[int, int]:
    """The process ids of a sandbox's kernel and of its gofer, on the host."""
    entry = json.loads((server.data_dir / "node" / "sandboxes" / sandbox.sandbox_id / "record.json").read_text())
    state = entry["runtime"]
    return state["pid"], state["gofer"][0]


def _answers(sandbox: Sandbox) -> bool:
    """Whether it runs, and the supervisor too."""
    with contextlib.suppress(SandboxException):  # 503 while that starts
        return bool(sandbox.is_running())
    return False


def _is_gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_it_outlives_its_supervisor(gvisor_server: Server, sandbox: Sandbox) -> None:
    """A supervisor that starts again adopts the sandbox: its programs, files and ports go on."""
    started = sandbox.commands.run("sleep 1000", background=True)
    gvisor_server.kill_child("node")
    assert eventually(lambda: _answers(sandbox), 60)
    assert started.pid in [one.pid for one in sandbox.commands.list()]
    assert sandbox.commands.run("cat /home/user/kept.txt").stdout == "kept\n"


@pytest.mark.parametrize("which", [0, 1], ids=["kernel", "gofer"])
def test_it_ends_with_either_of_its_processes(gvisor_server: Server, which: int) -> None:
    """With its kernel or its gofer gone, the whole sandbox ends, and nothing of it is left."""
    made = Sandbox.create("base", **gvisor_server.sdk)
    pids = _processes(gvisor_server, made)
    os.kill(pids[which], signal.SIGKILL)
    assert eventually(lambda: not made.is_running())
    assert eventually(lambda: all(map(_is_gone, pids)))


def test_its_processes_have_no_power(gvisor_server: Server, sandbox: Sandbox) -> None:
    """Its kernel has no capability, and an id of no user; its gofer has some, in a user namespace of the sandbox's ids alone."""
    kernel, gofer = _processes(gvisor_server, sandbox)
    status = {pid: Path(f"/proc/{pid}/status").read_text() for pid in (kernel, gofer)}
    assert "CapPrm:\t0000000000000000" in status[kernel]
    assert "Uid:\t65534\t65534\t65534\t65534" in status[kernel]
    host = Path("/proc/self/ns/user").stat().st_ino
    for pid in (kernel, gofer):
        assert Path(f"/proc/{pid}/ns/user").stat().st_ino != host
    first, start, count = Path(f"/proc/{gofer}/uid_map").read_text().split()
    assert (first, count) == ("0", "65536")
    assert int(start) >= 0x10000000


def test_no_mount_of_it_is_the_hosts(sandbox: Sandbox) -> None:
    """Its files are mounted where only it is."""
    assert sandbox.is_running()
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert not {"/mnt", "/mnt/root", "/media", "/media/root", "/proc/meminfo"} & set(mounted)


def test_one_that_is_killed_while_no_supervisor_runs(gvisor_server: Server) -> None:
    """A supervisor that finds a sandbox without its gofer ends the rest."""
    made = Sandbox.create("base", **gvisor_server.sdk)
    pids = _processes(gvisor_server, made)
    os.kill(gvisor_server.child("node"), signal.SIGSTOP)
    os.kill(pids[1], signal.SIGKILL)
    gvisor_server.kill_child("node")
    assert eventually(lambda: all(map(_is_gone, pids)))
    assert eventually(lambda: not made.is_running())


@pytest.mark.parametrize("memory", [True, False])
def test_a_pause(gvisor_server: Server, sandbox: Sandbox, memory: bool) -> None:
    """A paused sandbox comes back, with its memory or with its files alone."""
    started = sandbox.commands.run("sleep 1000", background=True)
    sandbox.pause(keep_memory=memory)
    again = Sandbox.connect(sandbox.sandbox_id, **gvisor_server.sdk)
    assert again.commands.run("cat /home/user/kept.txt").stdout == "kept\n"
    assert (started.pid in [one.pid for one in again.commands.list()]) is memory


_SHARED = "import mmap\nheld = mmap.mmap(-1, 3 << 30)\nfor at in range(0, 3 << 30, 4096): held[at] = 1"
"""Memory of no process, so that the host ends gVisor's kernel for it. Memory of a process ends that one alone."""


@pytest.mark.parametrize(
    ("command", "cause"),
    [(f"python3 -c '{_SHARED}'", "crashed: its memory ran out"), ("kill -9 1", "crashed: its first process ended")],
    ids=["memory", "first-process"],
)
def test_the_true_cause_of_its_end_is_told(gvisor_server: Server, command: str, cause: str) -> None:
    """Its log has it."""
    made = Sandbox.create("base", **gvisor_server.sdk)
    with contextlib.suppress(Exception):
        made.commands.run(command, user="root", timeout=120)
    assert eventually(lambda: _cause(gvisor_server, made), 60) == cause


def _cause(server: Server, made: Sandbox) -> str:
    """Reason and message of a sandbox's end; empty while it lives."""
    answer = call(server.url, "GET", f"/v2/sandboxes/{made.sandbox_id}/logs", headers={"X-API-Key": server.api_key})
    fields = [line["fields"] for line in answer.json()["logs"] if line["fields"]["event"] == "sandbox.ended"]
    return f"{fields[0]['reason']}: {fields[0]['message']}" if fields else ""


def test_a_program_that_takes_too_much_memory_ends_alone(gvisor_server: Server, sandbox: Sandbox) -> None:
    """Its sandbox lives on."""
    leak = "held = []\nwhile True: held.append(bytearray(8 << 20)); held[-1][::4096] = b'x' * 2048"
    with pytest.raises(CommandExitException) as ended:
        sandbox.commands.run(f'exec python3 -c "{leak}"', timeout=120)
    assert ended.value.error == "signal: killed"
    assert sandbox.commands.run("cat /home/user/kept.txt").stdout == "kept\n"
