"""The agent's zygote and the birth of its children, with a plain fork and a pid 1 of the test's own."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.fake_birth import FakeNursery
from framework.fake_zygote import FakeZygote
from framework.lone_agent import Descriptors


@pytest.fixture
def start() -> Iterator[Callable[..., FakeZygote]]:
    """Start zygotes; they end with the test."""
    with contextlib.ExitStack() as stack:

        def make(*arguments: str) -> FakeZygote:
            made = FakeZygote(*arguments)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """The init document of one sandbox."""
    user = pwd.getpwuid(os.getuid()).pw_name
    return {"sandbox_id": "s", "workdir": str(tmp_path), "user": user, "kernel_user": user, "envs": {"A": "1"}, "languages": ["python"]}


def hello(zygote: FakeZygote, birth: socket.socket) -> int:
    """The child's pid, from its hello."""
    data, ancillary, _, _ = birth.recvmsg(8, 64)
    assert data == b"B"
    (level, kind, content) = ancillary[0]
    assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
    pid: int = struct.unpack("=iII", content)[0]
    zygote.pids.append(pid)
    return pid


def give(birth: socket.socket, log: int, fds: list[int], text: bytes = b"env=PATH=/usr/bin:/bin\0env=TZ=UTC-5\0cwd=/usr\0") -> None:
    """Be pid 1: tell the child what it is."""
    socket.send_fds(birth, [text], [log, *fds])


def test_born_agents_serve_their_own_sandbox(start: Callable[..., FakeZygote], document: dict[str, Any], nursery: FakeNursery) -> None:
    """Two children of one zygote serve two sandboxes: their own variables, their own forked kernels, their own log."""
    zygote = start()
    log = os.memfd_create("log")
    agents = []
    for name in ("one", "two"):
        made = Descriptors({**document, "envs": {"NAME": name}})
        birth = zygote.fork()
        pid = hello(zygote, birth)
        channel = nursery.fork()
        give(birth, log, [*made.fds, channel.fileno(), nursery.orphans])
        channel.close()
        made.wait_ready()
        agents.append((made, pid))
    seen = set()
    for index, (made, pid) in enumerate(agents):
        events = made.execute("import os; result(os.environ['NAME'] + str(os.getpid()))")
        texts = [event["text"] for event in events if event["type"] == "result"]
        assert texts == [("one", "two")[index] + str(nursery.pids[index])]
        assert made.request("GET", "/health", control=True)[0] == 204
        logs = json.loads(made.request("GET", "/logs", control=True)[1])
        assert [event["kind"] for event in logs["events"]] == ["execution.ended"]
        seen.add(logs["agent_id"])
        os.kill(pid, signal.SIGTERM)
        made.close()
    assert len(seen) == 2
    assert os.fstat(log).st_size == 0, os.pread(log, 4096, 0)
    os.close(log)


def test_a_born_agent_is_what_pid_1_says(start: Callable[..., FakeZygote], document: dict[str, Any], tmp_path: Path) -> None:
    """Environment, directory and descriptors are those given and nothing else; chance is its own; it may read its own /proc."""
    zygote = start("--report")
    facts = []
    for _ in range(2):
        made = Descriptors(document)
        with (tmp_path / "log").open("ab") as log:
            birth = zygote.fork()
            pid = hello(zygote, birth)
            reading, writing = os.pipe()
            give(birth, log.fileno(), [*made.fds[:3], writing, made.fds[3]])
            os.close(writing)
        said = json.loads(os.read(reading, 1 << 16))
        os.close(reading)
        made.close()
        assert said["pid"] == pid
        facts.append(said)
    first = facts[0]
    assert first["env"] == {"PATH": "/usr/bin:/bin", "TZ": "UTC-5"}
    assert first["cwd"] == "/usr"
    assert first["dumpable"] == 1
    assert first["threads"] == 1
    assert first["random"] != facts[1]["random"]
    fds = {int(fd): value for fd, value in first["fds"].items()}
    assert [fds[0][0], fds[1][0], fds[2][0]] == ["/dev/null", str(tmp_path / "log"), str(tmp_path / "log")]
    assert [fds[fd][1] for fd in range(8)] == [True] * 3 + [False] * 5
    assert "memfd:init" in fds[3][0]
    assert [fds[fd][0].split(":")[0] for fd in (4, 5, 6, 7)] == ["socket", "socket", "pipe", "pipe"]
    assert max(fds) == 7


@pytest.mark.parametrize("fault", [b"", b"env=A=1\0what=this\0"])
def test_a_child_that_nobody_wants_ends(start: Callable[..., FakeZygote], document: dict[str, Any], fault: bytes) -> None:
    """If pid 1 closes the socket, or sends an unknown word, the child reports it and ends at once; the zygote goes on."""
    zygote = start()
    log = os.memfd_create("log")
    birth = zygote.fork()
    pid = hello(zygote, birth)
    made = Descriptors(document)
    if fault:
        give(birth, log, made.fds, fault)
    else:
        birth.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and "Z" not in _state(pid):
        time.sleep(0.01)
    assert "Z" in _state(pid)
    birth = zygote.fork()
    hello(zygote, birth)
    give(birth, log, made.fds)
    made.wait_ready()
    made.close()
    os.close(log)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"
