"""Sandboxes on gVisor, as clients use them: languages, commands, files, terminals and ports."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Iterator

import pytest
from e2b import PtySize
from e2b_code_interpreter import Sandbox

from framework.server import Server
from framework.waiting import eventually

pytestmark = [pytest.mark.root]

_CELLS = {
    "python": ("x = 6 * 7\nx", "42"),
    "javascript": ("const x = 6 * 7; x", "42"),
    "typescript": ("const x: number = 6 * 7; x", "42"),
    "bash": ("echo $((6 * 7))", "42"),
    "r": ("cat(6 * 7)", "42"),
    "java": ("System.out.print(6 * 7);", "42"),
}


@pytest.fixture(scope="module")
def sandbox(gvisor_server: Server) -> Iterator[Sandbox]:
    """One sandbox for the tests of this module."""
    made = Sandbox.create(**gvisor_server.sdk)
    yield made
    made.kill()


@pytest.mark.parametrize("language", _CELLS)
def test_a_language(sandbox: Sandbox, language: str) -> None:
    """A cell of each language runs."""
    code, expected = _CELLS[language]
    run = sandbox.run_code(code, language=language)
    assert run.error is None, run.error
    assert expected in (run.text or "") + "".join(run.logs.stdout)


def test_it_is_gvisor(sandbox: Sandbox) -> None:
    """The kernel that programs see is gVisor's, and not the host's."""
    assert "gVisor" in sandbox.commands.run("dmesg 2>/dev/null || cat /proc/version", user="root").stdout


def test_files_belong_to_their_user(sandbox: Sandbox) -> None:
    """An upload without a user is the default user's; a named user has its own rights alone."""
    sandbox.files.write("/home/user/one.txt", "1")
    assert sandbox.commands.run("stat -c %U /home/user/one.txt").stdout.strip() == "user"
    sandbox.files.write("/root/two.txt", "2", user="root")
    with pytest.raises(Exception, match=r"(?i)permission"):
        sandbox.files.write("/root/three.txt", "3", user="user")
    assert sandbox.files.read("/root/two.txt", user="root") == "2"
    assert [entry.name for entry in sandbox.files.list("/root", user="root") if entry.name.endswith(".txt")] == ["two.txt"]


def test_a_terminal(sandbox: Sandbox) -> None:
    """A program on a terminal gets input and the size."""
    seen: list[bytes] = []
    handle = sandbox.pty.create(PtySize(rows=20, cols=77))
    sandbox.pty.send_stdin(handle.pid, b"stty size; exit\n")
    with contextlib.suppress(Exception):
        handle.wait(on_pty=seen.append)
    assert b"20 77" in b"".join(seen)


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "::1"])
def test_a_port(gvisor_server: Server, sandbox: Sandbox, address: str) -> None:
    """A port is reached on whichever address its program listens."""
    port = {"0.0.0.0": 8001, "127.0.0.1": 8002, "::1": 8003}[address]
    sandbox.files.write("/home/user/served/a.txt", "here\n")
    sandbox.commands.run(f"exec python3 -m http.server {port} --bind {address}", cwd="/home/user/served", background=True)
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}
    request = urllib.request.Request(f"{gvisor_server.url}/a.txt", headers=headers)

    def answer() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as got:
            return bool(got.read() == b"here\n")
        return False

    assert eventually(answer)
