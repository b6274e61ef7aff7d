"""The agent's optional descriptors: the kernel that was forked for it, and the ends of orphans."""

from __future__ import annotations

import base64
import json
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.fake_birth import FakeNursery
from framework.lone_agent import Descriptors, LoneAgent


@pytest.fixture
def descriptors(tmp_path: Path) -> Iterator[Descriptors]:
    """The descriptors of an agent whose template has Python."""
    user = pwd.getpwuid(os.getuid()).pw_name
    document = {"sandbox_id": "s", "workdir": str(tmp_path), "user": user, "kernel_user": user, "languages": ["python"]}
    made = Descriptors(document)
    yield made
    made.close()


def test_the_agent_adopts_its_kernel(descriptors: Descriptors, nursery: FakeNursery) -> None:
    """An agent that is started with a forked kernel's socket runs code in it, and knows from pid 1 how it ended."""
    channel = nursery.fork()
    agent = LoneAgent(descriptors, {7: channel.fileno(), 8: nursery.orphans})
    channel.close()
    descriptors.wait_ready()
    events = descriptors.execute("import os; result(str(os.getpid()))")
    assert [event["text"] for event in events if event["type"] == "result"] == [str(nursery.pids[0])]
    events = descriptors.execute("import os; os._exit(9)")
    assert "exit code 9" in next(event["value"] for event in events if event["type"] == "error")
    assert agent.close() == 0


def test_programs_cannot_reach_the_sockets_of_the_agent(descriptors: Descriptors, nursery: FakeNursery) -> None:
    """Neither the kernel's socket nor the pipe of orphans, nor any other descriptor, is open in a process of the API."""
    channel = nursery.fork()
    agent = LoneAgent(descriptors, {7: channel.fileno(), 8: nursery.orphans})
    inodes = {str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in (channel.fileno(), nursery.orphans, *descriptors.fds)}
    descriptors.wait_ready()
    for fd in (7, 8):
        flags = Path(f"/proc/{agent.process.pid}/fdinfo/{fd}").read_text(encoding="ascii").split("flags:")[1].split()[0]
        assert int(flags, 8) & os.O_CLOEXEC, f"{fd} would be inherited by whatever does not close it"
    listing = "for fd in /proc/self/fd/*; do readlink $fd; done"
    envelope = json.dumps({"process": {"cmd": "/bin/sh", "args": ["-c", listing]}}).encode()
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", descriptors.control_port, timeout=30)
    headers = {"Content-Type": "application/connect+json", "Authorization": "Basic " + base64.b64encode(_user() + b":").decode()}
    connection.request("POST", "/process.Process/Start", b"\0" + len(envelope).to_bytes(4, "big") + envelope, headers)
    answer = connection.getresponse().read()
    connection.close()
    said = "".join(base64.b64decode(part).decode() for part in _texts(answer))
    assert "pipe:" in said
    assert not inodes & set(said.splitlines())
    channel.close()
    assert agent.close() == 0


def test_the_agent_needs_neither(descriptors: Descriptors) -> None:
    """Without the two it serves; other things at their numbers are left alone."""
    with open("/dev/null", "rb") as null:  # noqa: PTH123 - a plain file where a socket and a pipe would be
        agent = LoneAgent(descriptors, {7: null.fileno(), 8: null.fileno()})
    descriptors.wait_ready()
    assert descriptors.request("GET", "/health", control=True)[0] == 204
    assert agent.close() == 0


def _user() -> bytes:
    return pwd.getpwuid(os.getuid()).pw_name.encode()


def _texts(answer: bytes) -> list[str]:
    """The stdout data of a stream of envelopes."""
    found = []
    while answer:
        length = int.from_bytes(answer[1:5], "big")
        message = json.loads(answer[5 : 5 + length] or b"{}")
        answer = answer[5 + length :]
        data = message.get("event", {}).get("data", {})
        if "stdout" in data:
            found.append(data["stdout"])
    return found
