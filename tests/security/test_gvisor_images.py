"""Attacks on what sandboxes on gVisor share or are reached by: images of booted templates, tokens, the relay."""

from __future__ import annotations

import secrets
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from framework.server import Server
from framework.tiers import create_on
from framework.waiting import eventually

pytestmark = [pytest.mark.root]

_DRAWN = """
import os, random, uuid, pathlib
(random.random(), str(uuid.uuid4()), os.urandom(8).hex(), pathlib.Path("/etc/machine-id").read_text(),
 pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(), os.uname().nodename, os.environ["E2B_SANDBOX_ID"])
"""


def _images(server: Server) -> list[Path]:
    """The whole ones."""
    return [path for path in (server.data_dir / "node" / "gvisor").glob("*") if path.suffix != ".partial"]


def test_copies_of_an_image_draw_differently(gvisor_server: Server) -> None:
    """Random numbers, ids of machine and boot, and names are each sandbox's own, although all begin with the same memory."""
    Sandbox.create(**gvisor_server.sdk).kill()
    assert eventually(lambda: _images(gvisor_server), 120)
    drawn = []
    for _ in range(6):  # more than are made ahead, of which some began before there was an image
        made = Sandbox.create(envs={"GIVEN": "by the client"}, **gvisor_server.sdk)
        run = made.run_code(_DRAWN)
        assert (run.error, run.execution_count) == (None, 1)
        drawn.append(eval(run.text or ""))
        assert drawn[-1][-2:] == (made.sandbox_id, made.sandbox_id)
        assert made.run_code("import os; os.environ['GIVEN']").text == "by the client"
        assert made.commands.run("hostname; cat /etc/hostname; getent hosts $(hostname) | wc -l").stdout.split() == [
            made.sandbox_id
        ] * 2 + ["1"]
        made.kill()
    assert all(len(set(column)) == len(drawn) for column in zip(*drawn, strict=True))
    assert "image.dropped" not in gvisor_server.log.read_text()


def test_first_runs_start_no_kernel(gvisor_server: Server) -> None:
    """Kernels of other languages are in the image, too. No list of contexts has them yet, and their first run counts as such."""
    Sandbox.create(**gvisor_server.sdk).kill()
    assert eventually(lambda: _images(gvisor_server), 120)
    made = create_on(gvisor_server, "gvisor")  # not one that was made ahead, perhaps before there was an image
    running = made.commands.run("pgrep -f 'node|exec/R|java'", user="root").stdout.split()
    assert [context.language for context in made.list_code_contexts()] == ["python", "javascript"]
    cells = {"javascript": "process.pid", "r": "Sys.getpid()", "java": "ProcessHandle.current().pid()"}
    for language, cell in cells.items():
        run = made.run_code(cell, language=language)
        assert (run.error, run.execution_count) == (None, 1)
        assert any(pid in (run.text or "").split() for pid in running), (language, run.text, running)
    made.kill()


def test_image_cannot_have_a_clients_data(gvisor_server: Server) -> None:
    """The memory that sandboxes begin with has no variable, token or id of the client whose sandbox came first; only root reads it."""
    marker = f"of-the-client-{secrets.token_hex(8)}"
    made = Sandbox.create(envs={"GIVEN": marker}, **gvisor_server.sdk)
    made.run_code(f"kept = {marker!r}")
    (image, *_) = eventually(lambda: _images(gvisor_server), 120)
    found = b"".join(path.read_bytes() for path in (image / "memory" / "image").iterdir())
    assert b"cloister" in found
    assert not [secret for secret in (marker, made._envd_access_token or marker, made.sandbox_id) if secret.encode() in found]
    node = image.parents[1]
    assert (node.stat().st_uid, node.stat().st_mode & 0o077) == (0, 0)
    made.kill()


def test_an_agent_that_comes_back_knows_its_token(gvisor_server: Server) -> None:
    """The agent of a sandbox that was made ahead or copied demands the client's token also after it has died and come back."""
    made = Sandbox.create(**gvisor_server.sdk)
    url = f"{gvisor_server.url}/envs"
    headers = {"E2b-Sandbox-Id": made.sandbox_id, "E2b-Sandbox-Port": "49983"}

    def status() -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    before = made.commands.run("pgrep -P 1 -f agent/main.py", user="root").stdout
    made.commands.run(f"nohup sh -c 'sleep 0.2; kill -9 {int(before)}' > /dev/null 2>&1 &", user="root")
    after = eventually(lambda: _other(made, before))
    assert after != before
    assert status() == 401
    made.kill()


def test_sandbox_cannot_use_the_relay(gvisor_server: Server) -> None:
    """The relay to ports on loopback closes connections that come from the sandbox, by either of its addresses."""
    sandbox = Sandbox.create(**gvisor_server.sdk)
    program = (
        "import socket, subprocess\n"
        "own = socket.gethostbyname(socket.gethostname()), subprocess.check_output(['hostname', '-I'], text=True).split()[0]\n"
        "for address in {'127.0.0.1', *own}:\n"
        "    try:\n"
        "        with socket.create_connection((address, 49982)) as relay:\n"
        "            relay.sendall((49983).to_bytes(2, 'big'))\n"
        "            print(address, relay.recv(1))\n"
        "    except ConnectionResetError:\n"
        "        print(address, b'')\n"
    )
    sandbox.files.write("/home/user/relay.py", program)
    answers = sandbox.commands.run("python3 /home/user/relay.py").stdout.splitlines()
    assert len(answers) == 2
    assert all(line.endswith("b''") for line in answers), answers
    sandbox.kill()


def _other(made: Sandbox, before: str) -> str | None:
    """The agent's process id, once it is another one."""
    try:
        now = made.commands.run("pgrep -P 1 -f agent/main.py", user="root").stdout
    except Exception:  # noqa: BLE001 - it is coming back
        return None
    return now if now != before else None
