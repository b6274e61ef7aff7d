"""One test of each area on every runtime: the same SDK, template and answers, whichever kernel is below."""

from __future__ import annotations

import urllib.request

import pytest
from e2b import PtySize
from e2b_code_interpreter import Sandbox

from framework.http import call
from framework.server import Server
from framework.tiers import TIERS, create_on
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]

_CELLS = {
    "python": ("print('héllo'); 6 * 7", "42"),
    "javascript": ("console.log('héllo'); 6 * 7", "42"),
    "typescript": ("const n: number = 6; console.log('héllo'); n * 7", "42"),
    "bash": ("echo héllo 42", "42"),
    "r": ("cat('héllo\\n'); 6 * 7", "42"),
    "java": ('System.out.println("héllo"); int n = 6 * 7; System.out.print(n);', "42"),
}


@pytest.mark.parametrize("language", _CELLS)
def test_a_cell_runs(tier_sandbox: Sandbox, language: str) -> None:
    """Its output comes whole, and its value or last output is there."""
    code, expected = _CELLS[language]
    run = tier_sandbox.run_code(code, language=language)
    assert run.error is None, run.error
    assert "héllo" in "".join(run.logs.stdout)
    assert expected in (run.text or "") + "".join(run.logs.stdout)


def test_an_error_has_its_name(tier_sandbox: Sandbox) -> None:
    """And the kernel goes on."""
    tier_sandbox.run_code("kept = 1")
    failed = tier_sandbox.run_code("1 / 0")
    assert failed.error is not None
    assert failed.error.name == "ZeroDivisionError"
    assert tier_sandbox.run_code("kept").text == "1"


def test_a_command_has_its_output_and_status(tier_sandbox: Sandbox) -> None:
    """Both streams apart, variables, work directory and user as asked for."""
    done = tier_sandbox.commands.run("echo $A $(pwd) $(id -un); echo no >&2; exit 0", envs={"A": "1"}, cwd="/tmp", user="root")
    assert (done.stdout, done.stderr, done.exit_code) == ("1 /tmp root\n", "no\n", 0)
    with pytest.raises(Exception, match="7"):
        tier_sandbox.commands.run("exit 7")


def test_a_command_reads_and_is_ended(tier_sandbox: Sandbox) -> None:
    """Standard input reaches it while it runs, and a kill ends it."""
    handle = tier_sandbox.commands.run("cat", background=True, stdin=True)
    heard: list[str] = []
    tier_sandbox.commands.send_stdin(handle.pid, "typed\n")
    for out, _, _ in handle:
        heard.append(out or "")
        if "typed" in "".join(heard):
            break
    assert handle.kill()
    assert handle.pid not in [one.pid for one in tier_sandbox.commands.list()]


def test_a_large_output_is_whole(tier_sandbox: Sandbox) -> None:
    """Sixteen megabytes, to the last byte."""
    done = tier_sandbox.commands.run("head -c 16777216 /dev/zero | tr '\\0' x")
    assert len(done.stdout) == 16 << 20


def test_files_go_in_and_out(tier_sandbox: Sandbox) -> None:
    """With their owner, bytes and names, and a watch that hears of them."""
    events: list[str] = []
    tier_sandbox.files.make_dir("/home/user/watched")
    watch = tier_sandbox.files.watch_dir("/home/user/watched")
    data = bytes(range(256)) * 4096
    tier_sandbox.files.write("/home/user/watched/ä b.bin", data)
    assert bytes(tier_sandbox.files.read("/home/user/watched/ä b.bin", format="bytes")) == data
    assert tier_sandbox.commands.run("stat -c '%U %s' '/home/user/watched/ä b.bin'").stdout == f"user {len(data)}\n"

    def is_heard() -> bool:
        events.extend(event.name for event in watch.get_new_events())
        return "ä b.bin" in events

    assert eventually(is_heard)
    watch.stop()
    tier_sandbox.files.rename("/home/user/watched/ä b.bin", "/home/user/moved.bin")
    assert not tier_sandbox.files.exists("/home/user/watched/ä b.bin")
    tier_sandbox.files.remove("/home/user/moved.bin")


def test_a_terminal(tier_sandbox: Sandbox) -> None:
    """It has a size, echoes, and ends with its shell."""
    said: list[bytes] = []
    terminal = tier_sandbox.pty.create(PtySize(rows=30, cols=91))
    tier_sandbox.pty.send_stdin(terminal.pid, b"stty size; exit 3\n")
    for _, _, data in terminal:
        said.append(bytes(data or b""))
    assert b"30 91" in b"".join(said)
    with pytest.raises(Exception, match="3"):
        terminal.wait()


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port(tier_server: Server, tier_sandbox: Sandbox, address: str) -> None:
    """A program that listens, also on loopback alone, is reached through the server."""
    port = 8123 if address == "127.0.0.1" else 8124
    handle = tier_sandbox.commands.run(f"cd /tmp && python3 -m http.server {port} --bind {address}", background=True)
    headers = {"E2b-Sandbox-Id": tier_sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}

    def answer() -> int:
        request = urllib.request.Request(f"{tier_server.url}/", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return int(response.status)
        except OSError:
            return 0

    assert eventually(answer) == 200
    handle.kill()


def test_metrics(tier_sandbox: Sandbox) -> None:
    """Memory and processor time of the sandbox, and not of the host."""
    samples = eventually(tier_sandbox.get_metrics)
    assert samples[-1].mem_used > 0
    assert samples[-1].disk_total > 0


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "files"])
def test_a_pause(tier_server: Server, tier: str, memory: bool) -> None:
    """Its files are there again, and with its memory its programs too."""
    server = tier_server
    made = create_on(server, tier, "base")
    started = made.commands.run("echo kept > /home/user/kept; exec sleep 1000", background=True)
    eventually(lambda: made.files.exists("/home/user/kept"))
    made.pause(keep_memory=memory)
    again = Sandbox.connect(made.sandbox_id, **server.sdk)
    assert again.files.read("/home/user/kept") == "kept\n"
    assert (started.pid in [one.pid for one in again.commands.list()]) is memory
    assert call(server.url, "GET", f"/sandboxes/{made.sandbox_id}", headers={"X-API-Key": server.api_key}).json()["runtime"] == tier
    again.kill()


def test_the_answers_name_the_runtime(gvisor_server: Server) -> None:
    """In the list and in the detail; a name that the server has not is refused with those that it has."""
    server = gvisor_server
    made = {name: create_on(server, name, "base") for name in TIERS}
    key = {"X-API-Key": server.api_key}
    listed = {one["sandboxID"]: one["runtime"] for one in call(server.url, "GET", "/v2/sandboxes", headers=key).json()}
    for name, sandbox in made.items():
        assert listed[sandbox.sandbox_id] == name
        sandbox.kill()
    with pytest.raises(Exception, match="'kvm' is not available"):
        create_on(server, "kvm", "base")
